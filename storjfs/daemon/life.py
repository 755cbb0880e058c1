"""The life of a mount: own the volume, open the drive, mount, serve, unmount, send the rest, close.

The end comes from anywhere (a signal, `storjfs umount`, `fusermount3 -u`) and always takes the same way, so
that nothing that was accepted is lost:

    1. the kernel lets go of the mount point, having sent every dirty page;
    2. what is still here only is sent to the farmers, as far as they can be reached;
    3. a last group commit; databases closed; the farm child ends.
"""

import contextlib
import ctypes
import gc
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from storjfs.errors import StorjfsError
from storjfs.fuse import Adapter, parse_options, serve
from storjfs.volume import VolumeLock, VolumeLocked, VolumePaths, lock_volume

from . import farmers, integrity, status
from .client import request as ask
from .control import ControlServer, Tell
from .exit_codes import ReportedError
from .garbage import collect_garbage
from .mountpoint import canonical, detach, mounted_at, note_mount, prepare, refuse_own, require_fuse
from .request import MountRequest, Teller
from .watch import VARIABLE, Watch, watching_if_asked
from .wiring import Drive, open_drive

log = logging.getLogger(__name__)

# How long an end by signal waits for programs that keep files open, before it cuts them off.
PROGRAMS_PATIENCE = 5.0
# How long a flush goes on without any byte getting through before it gives up.
FARMERS_PATIENCE = 60.0
# The same for the flush at the end, where somebody may wait for the process to go away.
LAST_PATIENCE = 20.0
# After so many seconds without any byte getting through, a flush says which farmers do not answer.
AWAY_AFTER = 3.0
STEP = 0.1
ANSWER_PATIENCE = 10.0


class WritesRefused(StorjfsError):
    """The kernel still held what programs had written, and it could not be taken: it is gone."""


class Life:
    """One mount, from the request to the end of the process."""

    def __init__(self, request: MountRequest, teller: Teller) -> None:
        self._request = request
        self._teller = teller
        self._options = parse_options(request.options)
        self._mountpoint = canonical(request.mountpoint)
        self._paths = VolumePaths(request.volume)
        self._state = "starting"
        self._since = time.time()
        self._unmounted = trio.Event()
        self._flushed = trio.Event()
        self._serving = trio.CancelScope()
        self._last_flush = trio.CancelScope()
        self._drive: Drive
        self._adapter: Adapter
        self._watch: Watch | None = None
        self._refused = ""
        """What an unmount asked for has to say of writes; kept until one succeeds."""

    async def run(self) -> None:
        """Until the mount has ended. Raises what prevented it."""
        require_fuse()
        refuse_own(self._mountpoint, self._paths.directories)
        prepare(self._mountpoint, nonempty=self._request.nonempty)
        with await own(self._paths, self._teller.note):
            self._paths.make_runtime_dir()
            self._paths.make_directories()
            async with open_drive(self._paths, self._request, self._options, self._teller.note) as drive:
                self._drive = drive
                await self._live()

    async def _live(self) -> None:
        control = ControlServer(self._paths.control_socket, self._actions())
        with watching_if_asked(os.environ.get(VARIABLE)) as self._watch:
            await self._serve_and_control(control)

    async def _serve_and_control(self, control: ControlServer) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._heed_signals)
            gc.collect()
            nursery.start_soon(collect_garbage)
            await nursery.start(self._serve)
            await nursery.start(control.run)
            self._state = "mounted"
            self._since = time.time()
            log.info("mounted %s on %s", self._paths.name, self._mountpoint)
            note_mount(self._paths.mount_note, self._mountpoint)
            self._teller.ready(await self._drive.warning())
            await self._unmounted.wait()
            self._state = "stopping"
            log.info("unmounted")
            await self._drive.filesystem.rest()
            with self._last_flush:
                await self._last_words(_nobody, LAST_PATIENCE)
            self._flushed.set()
            with trio.move_on_after(ANSWER_PATIENCE):
                await control.idle()
            nursery.cancel_scope.cancel()

    async def _serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The mount itself; `_unmounted` is set however it ends."""
        try:
            with self._serving:
                only_root = os.geteuid() == 0 and not self._options.allow_other
                self._adapter = Adapter(
                    self._drive.filesystem, only_root=only_root, sync_network=self._options.sync_network
                )
                await serve(
                    self._adapter, self._mountpoint, self._options, self._paths.name, task_status=task_status
                )
        finally:
            self._unmounted.set()

    # --- ending ---

    async def _heed_signals(self) -> None:
        """The first signal ends the mount in good order; a second one does not wait for the farmers."""
        wanted = [signal.SIGTERM, signal.SIGINT]
        if self._request.foreground:
            wanted.append(signal.SIGHUP)
        with trio.open_signal_receiver(*wanted) as signals:
            async with trio.open_nursery() as nursery:
                async for number in signals:
                    log.info("signal %s", signal.Signals(number).name)
                    if self._state == "mounted":
                        self._state = "stopping"
                        nursery.start_soon(self._end_by_signal)
                    else:
                        self._last_flush.cancel()

    async def _end_by_signal(self) -> None:
        """Unmount; programs that keep files open get some time, then ENOTCONN. Their written data is safe."""
        try:
            await trio.to_thread.run_sync(lambda: detach(self._mountpoint, lazy=False))
        except StorjfsError as error:
            log.warning("%s", error)
            with contextlib.suppress(OSError):
                await trio.to_thread.run_sync(sync_mount, self._mountpoint)
            with contextlib.suppress(StorjfsError):
                await trio.to_thread.run_sync(lambda: detach(self._mountpoint, lazy=True))
        with trio.move_on_after(PROGRAMS_PATIENCE):
            await self._unmounted.wait()
            return
        self._serving.cancel()

    async def _flush(self, tell: Tell, patience: float, *, sync: bool = True) -> int:
        """Send everything to the farmers; returns the bytes of it that are still only here.

        Gives up when nothing has moved for `patience` seconds. What the kernel holds goes first (`sync`,
        which raises WritesRefused); what programs write meanwhile does not count.
        """
        if sync and not self._unmounted.is_set():
            await take_in(self._mountpoint, lambda: self._adapter.refused)
        done = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_flush, tell, patience, nursery.cancel_scope)
            await self._drive.flush()
            done = True
            nursery.cancel_scope.cancel()
        return 0 if done else self._drive.waiting()

    async def _last_words(self, tell: Tell, patience: float) -> None:
        """As `_flush`, before an unmount, which nothing keeps from happening that would stay as it is."""
        try:
            try:
                await self._flush(tell, patience)
            except WritesRefused as refused:
                # It is gone from the kernel too, so a mount that stays would bring nothing back.
                self._refused = str(refused)
                await self._flush(tell, patience, sync=False)
        except Exception:
            # Only the next mount can write again; and what is unmounted already cannot stay.
            failure = self._drive.failure
            if failure is None or not (failure.permanent or self._unmounted.is_set()):
                raise

    async def _watch_flush(self, tell: Tell, patience: float, scope: trio.CancelScope) -> None:
        most = least = self._drive.waiting()
        moved = trio.current_time()
        while True:
            waiting = self._drive.waiting()
            most = max(most, waiting)
            if waiting < least:
                least, moved = waiting, trio.current_time()
            elif trio.current_time() - moved > patience:
                log.warning("the farmers took nothing for %.0f s; %d bytes wait here", patience, waiting)
                scope.cancel()
            told: dict[str, Any] = {"waiting": waiting, "of": most}
            if waiting and trio.current_time() - moved > AWAY_AFTER:
                told["away"] = await self._drive.away()
                told["full"] = self._drive.without_room()
            await tell(told)
            await trio.sleep(STEP)

    # --- what commands may ask ---

    def _actions(self) -> Mapping[str, Callable[[Mapping[str, Any], Tell], Awaitable[Any]]]:
        return {
            "ping": self._ping,
            "status": self._status,
            "contracts": self._contracts,
            "flush": self._flush_asked,
            "umount": self._umount_asked,
            "audit": self._audit_asked,
            "repair": self._repair_asked,
            "fsck": self._fsck_asked,
            "scrub": self._scrub_asked,
            "gc": self._gc_asked,
            "still": self._still_asked,
            "farmers": self._farmers_asked,
            "add_farmer": self._add_farmer_asked,
            "mark_farmer": self._mark_farmer_asked,
            "loop": self._loop_asked,
        }

    async def _ping(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        return {"pid": os.getpid(), "state": self._state, "mountpoint": str(self._mountpoint)}

    async def _status(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        mount = {
            "mountpoint": str(self._mountpoint),
            "pid": os.getpid(),
            "since": self._since,
            "options": self._options.words(),
            "state": self._state,
        }
        return status.report(await self._drive.facts(), mount)

    async def _contracts(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        return status.report(await self._drive.facts(), None)["contracts"]

    async def _flush_asked(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        waiting = await self._flush(tell, FARMERS_PATIENCE)
        return {"waiting": waiting, "away": await self._drive.away() if waiting else []}

    async def _umount_asked(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        flush = bool(asked.get("flush", True))
        if flush:
            await self._last_words(tell, FARMERS_PATIENCE)
        if self._state == "mounted":
            await tell({"step": f"unmounting {self._mountpoint}"})
            lazy = bool(asked.get("lazy", False))
            await trio.to_thread.run_sync(lambda: detach(self._mountpoint, lazy=lazy))
        else:
            lazy = False
        if not flush:
            # Only now: a mount that could not be taken off goes on, and sends the rest when it ends.
            self._last_flush.cancel()
        if not lazy:
            await self._flushed.wait()
        lost, failure = self._refused, self._drive.failure
        # A full disk may have room again before a lazy unmount has come to its end.
        if failure is not None and (failure.permanent or not lazy):
            lost = f"{failure}; what was written last and not synced is lost"
        return {"waiting": self._drive.waiting(), "refused": lost}

    async def _audit_asked(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        return await self._drive.audit_now()

    async def _loop_asked(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        return None if self._watch is None else self._watch.report()

    async def _repair_asked(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        return await self._drive.repair_now(tell)

    async def _fsck_asked(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        return await integrity.fsck_mounted(
            self._drive,
            tell,
            repair=bool(asked.get("repair", False)),
            farmers=bool(asked.get("farmers", True)),
            delete_unknown=bool(asked.get("delete_unknown", False)),
        )

    async def _scrub_asked(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        return await integrity.scrub(self._drive, tell, **integrity.scrub_choice(asked))

    async def _farmers_asked(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        return farmers.known(self._drive.renter)

    async def _add_farmer_asked(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        return await farmers.add_mounted(self._paths, self._drive.renter, str(asked.get("address")))

    async def _mark_farmer_asked(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        mark = farmers.mark_named(asked.get("mark"))
        return await farmers.mark_mounted(self._paths, self._drive.renter, str(asked.get("farmer")), mark)

    async def _gc_asked(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        return await integrity.collect(self._drive, tell)

    async def _still_asked(self, asked: Mapping[str, Any], tell: Tell) -> Any:
        """For a backup: until the client goes away, whatever was flushed lies in segments that the farmers
        have, as far as these take it."""
        async with self._drive.filesystem.still():
            # What had been moved until now may be here only.
            try:
                await self._flush(tell, FARMERS_PATIENCE, sync=False)
            except Exception:
                if self._drive.failure is None:
                    raise
            await tell({"still": True})
            await trio.sleep_forever()


async def own(paths: VolumePaths, note: Callable[[str], None]) -> VolumeLock:
    """The volume's lock; waits for an earlier mount process that has unmounted and is sending the rest.

    Raises VolumeLocked where the volume is mounted elsewhere.
    """
    said = False
    deadline = trio.current_time() + ANSWER_PATIENCE
    while True:
        try:
            return lock_volume(paths)
        except VolumeLocked as locked:
            try:
                answer = await trio.to_thread.run_sync(lambda: ask(paths.control_socket, "ping"))
            except (ReportedError, OSError):
                # Before its first answer, or after its last one.
                if trio.current_time() > deadline:
                    raise locked from None
            else:
                if answer["state"] != "stopping":
                    where = answer["mountpoint"]
                    if mounted_at(Path(where)) is None:
                        raise VolumeLocked(
                            f"programs still use files of the mount that was taken off {where}",
                            hint=f"close them; or end the mount: kill {answer['pid']}",
                            pid=locked.pid,
                        ) from None
                    raise VolumeLocked(
                        f"the volume {paths.name} is mounted on {where} already",
                        hint=f"storjfs umount {where}",
                        pid=locked.pid,
                    ) from None
                deadline = trio.current_time() + ANSWER_PATIENCE
        if not said:
            said = True
            note("An earlier mount of this volume has not ended yet; waiting for it.")
        await trio.sleep(STEP)


async def take_in(mountpoint: Path, refused: Callable[[], int]) -> None:
    """Have the kernel send what it holds of the mount. Raises WritesRefused where not all is taken.

    The kernel tells of a refused write until somebody has asked, however long ago its program was told; so
    `refused` says how many there were, and only those of now count.
    """
    before = refused()
    try:
        await trio.to_thread.run_sync(sync_mount, mountpoint, abandon_on_cancel=True)
    except OSError as error:
        if refused() == before:
            log.info("the kernel tells of a write that was refused earlier: %s", error)
            return
        raise WritesRefused(
            f"not all that programs wrote last could be taken ({error.strerror}); the rest of it is lost",
            hint="all that was synced is safe; storjfs status says what is wrong",
        ) from error


def sync_mount(mountpoint: Path) -> None:
    """Have the kernel send all dirty pages of the mount (syncfs(2)); returns when we have taken them.

    Blocks without the GIL, in a thread: the loop must be free to take them.
    """
    descriptor = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(descriptor)


async def _nobody(progress: Mapping[str, Any]) -> None:
    """Nobody watches."""
