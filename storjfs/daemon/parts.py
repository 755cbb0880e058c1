"""What a drive is made of, from the settings of its volume: its keys, ledger, renter and farm child."""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from storjfs.farmer.embedded import leaving_folders
from storjfs.keys import VolumeKeys
from storjfs.ledger import open_settlement
from storjfs.network.sources import Source
from storjfs.protocol.ids import PublicKey
from storjfs.protocol.signing import SigningKey
from storjfs.renter.renter import Renter
from storjfs.renter.settings import KnownFarmer, RenterSettings
from storjfs.settlement import Ledger, NotAllowed, Settlement, SettlementError
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


def own_key(keys: VolumeKeys) -> SigningKey:
    """The key of the volume's own account, from which lanes are funded: the payment identity of no farmer."""
    return SigningKey(keys.payment_identity(bytes(32)))


def own_account(keys: VolumeKeys) -> PublicKey:
    """The volume's own account."""
    return own_key(keys).public


def issuing(keys: VolumeKeys) -> str:
    """What whoever runs a ledger gives the volume's account some credits with."""
    return f"storjfs ledger issue {own_account(keys).hex()} 1000"


def make_renter(
    paths: VolumePaths,
    settings: VolumeSettings,
    keys: VolumeKeys,
    store: MetaStore,
    ledger: Settlement,
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
        settings.ledger or paths.ledger_db,
        min(settings.capacity, share),
        settings.disk_reserve // 4,
        paths.state_dir / "farm.log",
    )


def open_ledger(paths: VolumePaths, settings: VolumeSettings, keys: VolumeKeys) -> Settlement:
    """The settlement of the volume, new play money in it if that is ours to make: once, however often this is
    called."""
    ledger = known_ledger(paths, settings, keys)
    if isinstance(ledger, Ledger):
        with contextlib.suppress(NotAllowed) if settings.ledger else contextlib.nullcontext():
            ledger.issue(
                own_account(keys), settings.play_balance, memo="play balance", order=b"play " + keys.volume_id
            )
    return ledger


def known_ledger(paths: VolumePaths, settings: VolumeSettings, keys: VolumeKeys) -> Settlement:
    """The settlement as it is. Raises SettlementError where a file that the settings name is missing."""
    place = settings.ledger
    if isinstance(place, Path) and not place.is_file():
        raise SettlementError(
            f"there is no ledger {place}",
            hint=f"Change it under [ledger] in {paths.settings_file}; left out, the volume has its own.",
        )
    return open_settlement(place or paths.ledger_db, own_key(keys), paths.data_dir)
