"""What a drive is made of, from the settings of its volume: its keys, ledger, renter and farm child."""

import shutil
from collections.abc import Mapping, Sequence
from typing import Final

from storjfs.farmer.embedded import leaving_folders
from storjfs.keys import VolumeKeys
from storjfs.network.sources import Source
from storjfs.protocol.ids import PublicKey
from storjfs.protocol.signing import SigningKey
from storjfs.renter.renter import Renter
from storjfs.renter.settings import KnownFarmer, RenterSettings
from storjfs.settlement import Ledger
from storjfs.store import MetaStore
from storjfs.volume import EmbeddedFarm, VolumePaths, VolumeSettings
from storjfs.volume.files import make_private

from .farm_child import FarmChild

GIB: Final = 1 << 30


class Passphrase:
    """The passphrase that came with the request; a PassphraseSource."""

    def __init__(self, text: str) -> None:
        self._text = text

    def read(self, *, new: bool = False) -> str:
        """See storjfs.volume.PassphraseSource."""
        return self._text


def own_account(keys: VolumeKeys) -> PublicKey:
    """The account of the volume itself, from which lanes are funded: the payment identity of no farmer."""
    return SigningKey(keys.payment_identity(bytes(32))).public


def make_renter(
    paths: VolumePaths,
    settings: VolumeSettings,
    keys: VolumeKeys,
    store: MetaStore,
    ledger: Ledger,
    farmers: Sequence[KnownFarmer] = (),
    sources: Mapping[str, Source] | None = None,
) -> Renter:
    """The renter of a volume on its own databases; without `farmers` and `sources` it knows those with a
    contract only, and those that an earlier mount has heard of."""
    renter = Renter(
        keys,
        store,
        paths.pay_db,
        paths.local_db,
        ledger,
        own_account(keys),
        RenterSettings.of_volume(settings),
        farmers=farmers,
        sources=sources,
        ask_peers=sources is not None and "peers" in settings.find,
    )
    renter.mark(settings.blocked, settings.preferred)
    return renter


def embedded_farm(paths: VolumePaths, settings: VolumeSettings) -> FarmChild | None:
    """The farm child of a volume; None where it neither has nor had embedded farmers.

    They share one disk, so each offers no more than its part of it.
    """
    count = settings.farmers.count if isinstance(settings.farmers, EmbeddedFarm) else 0
    if not count and not leaving_folders(paths.farm_dir, 0):
        return None
    make_private(paths.farm_dir)
    share = max(shutil.disk_usage(paths.farm_dir).total // max(count, 1), GIB)
    return FarmChild(
        paths.farm_dir,
        count,
        paths.ledger_db,
        min(settings.capacity, share),
        settings.disk_reserve // 4,
        paths.state_dir / "farm.log",
    )


def open_ledger(paths: VolumePaths, settings: VolumeSettings, keys: VolumeKeys) -> Ledger:
    """The embedded settlement; the play balance is issued once, however often this is called."""
    ledger = Ledger(paths.ledger_db)
    ledger.issue(
        own_account(keys), settings.play_balance, memo="play balance", order=b"play " + keys.volume_id
    )
    return ledger
