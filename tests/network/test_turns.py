"""Turns go by priority, nobody waits for ever, and what is cancelled leaves no trace."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from storjfs.network.turns import OLDEST_EVERY, Turns
from storjfs.protocol.priorities import Priority, priority_of
from tests.fuzz.samples import REQUESTS

READ, AUDIT, UPLOAD = Priority


class Queue:
    """Tasks that want a turn, and the order in which they got one."""

    def __init__(self, turns: Turns, nursery: trio.Nursery) -> None:
        self.turns = turns
        self.nursery = nursery
        self.order: list[str] = []
        self.gates: dict[str, trio.Event] = {}

    async def want(self, name: str, priority: Priority) -> trio.CancelScope:
        scope = trio.CancelScope()
        gate = self.gates[name] = trio.Event()

        async def work() -> None:
            with scope:
                async with self.turns.turn(priority):
                    self.order.append(name)
                    await gate.wait()

        self.nursery.start_soon(work)
        await trio.testing.wait_all_tasks_blocked()
        return scope

    async def end(self, *names: str) -> None:
        for name in names:
            self.gates[name].set()
            await trio.testing.wait_all_tasks_blocked()


async def test_reads_go_before_audits_before_uploads() -> None:
    async with trio.open_nursery() as nursery:
        queue = Queue(Turns(1), nursery)
        await queue.want("first", UPLOAD)
        for name, priority in (("u", UPLOAD), ("a", AUDIT), ("r", READ), ("u2", UPLOAD), ("r2", READ)):
            await queue.want(name, priority)
        await queue.end("first", "r", "r2", "a", "u", "u2")
    assert queue.order == ["first", "r", "r2", "a", "u", "u2"]


async def test_whoever_waits_longest_gets_a_place_now_and_then() -> None:
    async with trio.open_nursery() as nursery:
        queue = Queue(Turns(1), nursery)
        await queue.want("first", READ)
        await queue.want("upload", UPLOAD)
        for number in range(2 * OLDEST_EVERY):
            await queue.want(f"r{number}", READ)
        for name in ["first", *(f"r{number}" for number in range(2 * OLDEST_EVERY)), "upload"]:
            await queue.end(name)
    assert queue.order.index("upload") <= OLDEST_EVERY


async def test_uploads_leave_places_to_others() -> None:
    async with trio.open_nursery() as nursery:
        queue = Queue(Turns(3, {UPLOAD: 2}), nursery)
        for name in ("u1", "u2", "u3"):
            await queue.want(name, UPLOAD)
        await queue.want("read", READ)
        assert queue.order == ["u1", "u2", "read"]
        await queue.end("read")
        assert queue.order == ["u1", "u2", "read"]
        await queue.end("u1")
        assert queue.order[-1] == "u3"
        await queue.end("u2", "u3")
    assert queue.turns.taken == 0


async def test_a_cancelled_wait_lets_the_next_one_in() -> None:
    async with trio.open_nursery() as nursery:
        queue = Queue(Turns(1), nursery)
        await queue.want("first", READ)
        cancelled = await queue.want("cancelled", READ)
        await queue.want("next", READ)
        cancelled.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await queue.end("first", "next")
    assert queue.order == ["first", "next"]
    assert queue.turns.taken == queue.turns.waiting == 0


@pytest.mark.parametrize("first", ["cancelled", "given"])
async def test_a_place_given_to_one_that_is_being_cancelled_goes_to_the_next(first: str) -> None:
    async with trio.open_nursery() as nursery:
        queue = Queue(Turns(1), nursery)
        await queue.turns.take(UPLOAD)
        scope = await queue.want("cancelled", READ)
        await queue.want("next", AUDIT)
        if first == "cancelled":
            scope.cancel()
            queue.turns.give_back(UPLOAD)
        else:
            queue.turns.give_back(UPLOAD)
            scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert queue.order[-1] == "next"
        await queue.end("next")
    assert queue.turns.taken == queue.turns.waiting == 0


@given(st.lists(st.tuples(st.sampled_from(Priority), st.booleans()), max_size=30), st.integers(1, 4))
def test_places_are_never_lost_nor_given_twice(steps: list[tuple[Priority, bool]], count: int) -> None:
    async def main() -> None:
        turns = Turns(count, {UPLOAD: max(1, count - 1)})
        inside = 0

        async def work(priority: Priority) -> None:
            nonlocal inside
            async with turns.turn(priority):
                inside += 1
                assert inside <= count
                assert inside <= turns.taken <= count
                try:
                    await trio.sleep(1)
                finally:
                    inside -= 1

        async with trio.open_nursery() as nursery:
            for priority, cancel in steps:
                scope = trio.CancelScope()

                async def cancellable(priority: Priority = priority, scope: trio.CancelScope = scope) -> None:
                    with scope:
                        await work(priority)

                nursery.start_soon(cancellable)
                await trio.sleep(0.5)  # so that some are cancelled when a place becomes free
                if cancel:
                    scope.cancel()
        assert turns.taken == turns.waiting == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_there_is_a_place_for_everybody() -> None:
    for count, most in ((0, {}), (3, {UPLOAD: 0})):
        with pytest.raises(ValueError):
            Turns(count, most)


def test_every_request_has_a_priority() -> None:
    found = {type(request).__name__: priority_of(request) for request in REQUESTS}
    assert found["Get"] < found["Audit"] < found["Put"]
    assert found["Pay"] == found["Ping"] == READ


async def test_the_number_of_places_changes_while_they_are_taken(
    autojump_clock: trio.testing.MockClock,
) -> None:
    turns = Turns(4, {UPLOAD: 3})
    for _ in range(3):
        await turns.take(UPLOAD)
    turns.resize(1)
    await nobody_gets_one(turns)
    for _ in range(3):
        turns.give_back(UPLOAD)
    assert turns.taken == 0
    await turns.take(UPLOAD)
    await nobody_gets_one(turns)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(turns.take, UPLOAD)
        await trio.testing.wait_all_tasks_blocked()
        assert turns.waiting == 2
        turns.resize(3, {UPLOAD: 2})
        await trio.testing.wait_all_tasks_blocked()
        assert (turns.taken, turns.waiting) == (2, 1)
        turns.give_back(UPLOAD)
    with pytest.raises(ValueError):
        turns.resize(0)


async def nobody_gets_one(turns: Turns) -> None:
    """However long it waits."""
    with trio.move_on_after(1000) as waited:
        await turns.take(READ)
    assert waited.cancelled_caught
