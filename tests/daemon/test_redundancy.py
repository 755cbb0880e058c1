"""What is asked of the books about redundancy costs the same however many segments there are."""

from pathlib import Path

from storjfs.daemon.redundancy import BARE, WAITING
from storjfs.store import MetaStore


def test_no_question_goes_through_all_segments(tmp_path: Path) -> None:
    store = MetaStore.open(tmp_path / "meta.db", bytes(32))
    plans = [store.read(f"EXPLAIN QUERY PLAN {sql}")[0][3] for sql in (BARE, WAITING)]
    assert "segment_bare" in plans[0]
    assert "segment_by_state" in plans[1]
