"""A volume on this machine: where its files lie, its settings, and how it is made, unlocked and locked.

Nothing here opens a database or a connection.
"""

from storjfs.volume.errors import (
    KeyFileMissing,
    PassphraseUnreadable,
    RuntimeDirectoryUnsafe,
    SettingsError,
    SettingsFileError,
    VolumeDamaged,
    VolumeExists,
    VolumeLocked,
    VolumeNameError,
    VolumeNotFound,
)
from storjfs.volume.finding import Needs, Spread, parse_node_id, parse_regions, parse_spread, parse_ways
from storjfs.volume.ledger import ledger_named
from storjfs.volume.life import (
    change_farmers,
    change_passphrase,
    create_volume,
    has_metadata,
    is_sealed,
    read_settings,
    reset_passphrase,
    restore_volume,
    same_phrase,
    unlock_volume,
    volume_not_found,
    write_settings,
)
from storjfs.volume.lock import VolumeLock, lock_volume
from storjfs.volume.passphrase import (
    FromCommand,
    FromEnvironment,
    FromFile,
    FromPrompt,
    PassphraseSource,
    passphrase_source,
)
from storjfs.volume.paths import DEFAULT_NAME, VolumePaths, data_home, keyless_names, volume_names
from storjfs.volume.settings import (
    EmbeddedFarm,
    StaticFarmer,
    VolumeSettings,
    check_cache_size,
    default_cache_size,
)
from storjfs.volume.units import parse_credits, parse_duration, parse_price, parse_size

__all__ = [
    "DEFAULT_NAME",
    "EmbeddedFarm",
    "FromCommand",
    "FromEnvironment",
    "FromFile",
    "FromPrompt",
    "KeyFileMissing",
    "Needs",
    "PassphraseSource",
    "PassphraseUnreadable",
    "RuntimeDirectoryUnsafe",
    "SettingsError",
    "SettingsFileError",
    "Spread",
    "StaticFarmer",
    "VolumeDamaged",
    "VolumeExists",
    "VolumeLock",
    "VolumeLocked",
    "VolumeNameError",
    "VolumeNotFound",
    "VolumePaths",
    "VolumeSettings",
    "change_farmers",
    "change_passphrase",
    "check_cache_size",
    "create_volume",
    "data_home",
    "default_cache_size",
    "has_metadata",
    "is_sealed",
    "keyless_names",
    "ledger_named",
    "lock_volume",
    "parse_credits",
    "parse_duration",
    "parse_node_id",
    "parse_price",
    "parse_regions",
    "parse_size",
    "parse_spread",
    "parse_ways",
    "passphrase_source",
    "read_settings",
    "reset_passphrase",
    "restore_volume",
    "same_phrase",
    "unlock_volume",
    "volume_names",
    "volume_not_found",
    "write_settings",
]
