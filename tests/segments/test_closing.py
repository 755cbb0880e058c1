"""What ends while the segments' tasks end."""

import trio

from tests.segments.conftest import Volume, until


async def test_a_commit_that_ends_while_the_nursery_closes_begins_nothing_in_it(volume: Volume) -> None:
    ended: list[str] = []

    class Commit(trio.abc.Instrument):
        """Ends right after the last task of the nursery has, before whoever waits for that is let run."""

        def task_exited(self, task: trio.lowlevel.Task) -> None:
            if task in tasks:
                tasks.discard(task)
                if not tasks:
                    try:
                        segments._let_go(segment)
                    except RuntimeError as error:
                        ended.append(str(error))
                    else:
                        ended.append("")

    commit = Commit()
    async with volume.running() as segments:
        (run,) = volume.append_random(100_000)
        await segments.flush()
        await until(lambda: segments.report().full == 1 and not segments._cache.unsent, volume.store)
        segment = segments._catalogue.get(run.seg)
        assert segments._nursery is not None
        tasks = set(segments._nursery.child_tasks)
        trio.lowlevel.add_instrument(commit)
    trio.lowlevel.remove_instrument(commit)
    assert ended == [""]


async def test_a_mistake_after_a_commit_keeps_nobody_else_from_learning_of_it(volume: Volume) -> None:
    async with volume.running() as segments:
        called: list[int] = []
        segments._catalogue.when_committed(lambda: called.append(1))
        segments._catalogue.when_committed(lambda: called.append(1 // 0))
        segments._catalogue.when_committed(lambda: called.append(3))
        await volume.store.sync()
        assert called == [1, 3]
        volume.append_random(100_000)
        await segments.flush()
        assert volume.farm.shard_count() >= 4
