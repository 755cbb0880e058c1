"""What farmers say they hold, against our table of shards.

Of each page a farmer's answer comes first and our rows are read after it. The row of a shard is committed
before its upload begins, so what a farmer held when it answered and we do not know afterwards is no upload
under way. What seems to be missing is asked for once more, and our row looked at again.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, Protocol

from storjfs.coding.geometry import SEALED_PIECE
from storjfs.errors import StorjfsError
from storjfs.integrity.findings import Finding, Findings
from storjfs.protocol.ids import short
from storjfs.protocol.messages import MAX_LISTED, HeldShard
from storjfs.renter.errors import AnswerSenseless, ServiceRefused

_ROWS: Final = 2000
_FIRST: Final = bytes(32)
_LAST: Final = b"\xff" * 32

Read = Callable[[str, tuple[Any, ...]], list[Any]]
Tell = Callable[[dict[str, Any]], Awaitable[None]]


class Lister(Protocol):
    """Asks farmers; storjfs.renter.client.ShardClient does."""

    async def list_shards(self, contract: int, start: bytes, limit: int = ...) -> Sequence[HeldShard]: ...

    def capacity(self, contract: int) -> int: ...


class FarmerCheck:
    """The comparison for some contracts. `read` gives rows of what is committed (MetaStore.read)."""

    def __init__(self, read: Read, lister: Lister) -> None:
        self._read = read
        self._lister = lister
        self.findings = Findings()

    async def run(self, contracts: Sequence[tuple[int, bytes]], tell: Tell) -> Findings:
        """Compare under each of `contracts`, (number, node id). Silent farmers become findings."""
        for done, (number, node_id) in enumerate(contracts):
            await tell({"part": "farmers", "done": done, "of": len(contracts)})
            said = f"farmer {short(node_id)}, contract {number}"
            try:
                await self._contract(number, said)
            except AnswerSenseless as error:
                self.findings.add(Finding("farmer-senseless", f"{said}: {error}", (number,)))
            except ServiceRefused as error:
                if error.code == "unsupported":
                    self.findings.add(Finding("farmer-old", said, (number,)))
                else:
                    self.findings.add(Finding("farmer-silent", f"{said}: {error}", (number,)))
            except (StorjfsError, OSError) as error:
                self.findings.add(Finding("farmer-silent", f"{said}: {error}", (number,)))
        await tell({"part": "farmers", "done": len(contracts), "of": len(contracts)})
        return self.findings

    async def _contract(self, number: int, said: str) -> None:
        start = _FIRST
        left = self._lister.capacity(number)
        while True:
            page = await self._lister.list_shards(number, start, MAX_LISTED)
            there = {bytes(one.shard_id): one for one in page}
            left -= sum(max(shard.length, SEALED_PIECE) for shard in page)
            if left < 0:
                raise AnswerSenseless("it lists more than its contract has room for")
            last = bytes(page[-1].shard_id) if len(page) == MAX_LISTED else _LAST
            missing, ours = self._compare(number, start, last, there, said)
            for shard_id, seg, idx in missing:
                await self._confirm_missing(number, shard_id, seg, idx, said)
            for shard_id in there.keys() - ours:
                if not self._needed(shard_id):
                    text = f"{said}: shard {short(shard_id)}, {there[shard_id].length} bytes"
                    self.findings.add(Finding("farmer-orphan", text, (shard_id, number)))
            if last == _LAST:
                break
            start = _after(last)

    def _compare(
        self, number: int, start: bytes, last: bytes, there: dict[bytes, HeldShard], said: str
    ) -> tuple[list[tuple[bytes, int, int]], set[bytes]]:
        """(what the page lacks, which of the page's shards we know)."""
        missing: list[tuple[bytes, int, int]] = []
        ours: set[bytes] = set()
        for shard_id, seg, idx, root, length, state in self._ours(number, start, last):
            found = there.get(shard_id)
            if found is not None:
                ours.add(shard_id)
                if state in (1, 2) and (found.root, found.length) != (root, length):
                    text = f"{said}: shard {idx} of segment {seg}"
                    self.findings.add(Finding("farmer-differs", text, (shard_id, seg, idx), seg=seg))
                elif state == 3 and (found.root, found.length) == (root, length) and self._lacks(seg, idx):
                    text = f"{said}: shard {idx} of segment {seg}"
                    self.findings.add(Finding("farmer-found", text, (shard_id, seg, idx), seg=seg))
            elif state in (1, 2):
                missing.append((shard_id, seg, idx))
        return missing, ours

    def _ours(self, number: int, start: bytes, last: bytes) -> Iterator[tuple[Any, ...]]:
        while rows := self._read(
            "SELECT shard_id, seg, idx, root, length, state FROM shard "
            "WHERE contract = ? AND shard_id BETWEEN ? AND ? ORDER BY shard_id LIMIT ?",
            (number, start, last, _ROWS),
        ):
            yield from rows
            if len(rows) < _ROWS or rows[-1][0] == _LAST:
                return
            start = _after(rows[-1][0])

    def _lacks(self, seg: int, idx: int) -> bool:
        """Whether the segment has fewer shards than it takes to read it, and none for this place."""
        rows = self._read(
            "SELECT 1 FROM segment s WHERE s.seg = ?1 AND s.k > (SELECT COUNT(DISTINCT h.idx) FROM shard h "
            "WHERE h.seg = ?1 AND h.state IN (1, 2)) AND NOT EXISTS (SELECT 1 FROM shard h "
            "WHERE h.seg = ?1 AND h.idx = ?2 AND h.state IN (1, 2))",
            (seg, idx),
        )
        return bool(rows)

    async def _confirm_missing(self, number: int, shard_id: bytes, seg: int, idx: int, said: str) -> None:
        again = await self._lister.list_shards(number, shard_id, 1)
        if again and bytes(again[0].shard_id) == shard_id:
            return
        if self._read("SELECT 1 FROM shard WHERE shard_id = ? AND state IN (1, 2)", (shard_id,)):
            text = f"{said}: shard {idx} of segment {seg}"
            self.findings.add(Finding("farmer-missing", text, (shard_id, seg, idx), seg=seg))

    def _needed(self, shard_id: bytes) -> bool:
        """Whether we know it: under another contract, or as one whose deletion is under way."""
        sql = "SELECT 1 FROM {} WHERE shard_id = ?"
        return any(self._read(sql.format(table), (shard_id,)) for table in ("shard", "doomed"))


def _after(shard_id: bytes) -> bytes:
    return (int.from_bytes(shard_id, "big") + 1).to_bytes(32, "big")
