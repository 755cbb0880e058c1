"""What tests of a farmer as a process have around it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storjfs.settlement import Ledger
from tests.farmer.process import Manager


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db")
    yield ledger
    ledger.close_file()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.socket.close()
