"""What tests of a farmer have around it: in this process, or as a process of its own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from storjfs.farmer.farmer import Farmer
from storjfs.settlement import Ledger
from tests.farmer.process import Manager
from tests.farmer.renter import Renter, farming, renting


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """The settlement; whatever a test does, its books balance in the end."""
    ledger = Ledger(tmp_path / "ledger.db")
    yield ledger
    assert ledger.check() == []
    ledger.close_file()


@pytest.fixture
async def farmer(tmp_path: Path, ledger: Ledger) -> AsyncIterator[Farmer]:
    async with farming(tmp_path) as farmer:
        farmer.settings.write(farmer.folder)
        yield farmer


@pytest.fixture
async def renter(farmer: Farmer, ledger: Ledger) -> AsyncIterator[Renter]:
    async with renting(ledger, farmer.node_id, farmer.listening[0]) as renter:
        yield renter


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.socket.close()
