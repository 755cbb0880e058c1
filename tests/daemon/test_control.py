"""Commands reach a running mount over its control socket, and nobody else does."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from storjfs.daemon import control
from storjfs.daemon.client import NotMounted, request
from storjfs.daemon.control import ControlServer, Tell
from storjfs.daemon.exit_codes import ExitCode, ReportedError
from storjfs.daemon.mountpoint import MountpointBusy


async def echo(asked: Mapping[str, Any], tell: Tell) -> Any:
    for step in range(3):
        await tell({"step": step})
    return {"said": asked["word"]}


async def busy(asked: Mapping[str, Any], tell: Tell) -> Any:
    raise MountpointBusy("somebody is in there", hint="ask them out")


async def broken(asked: Mapping[str, Any], tell: Tell) -> Any:
    raise KeyError("x")


@pytest.fixture
async def socket_path(tmp_path: Path, nursery: trio.Nursery) -> Path:
    path = tmp_path / "control"
    path.touch()  # as a crash leaves it
    await nursery.start(ControlServer(path, {"echo": echo, "busy": busy, "broken": broken}).run)
    return path


async def ask(path: Path, do: str, **arguments: Any) -> Any:
    return await trio.to_thread.run_sync(lambda: request(path, do, **arguments))


async def test_a_request_gets_its_progress_and_its_result(socket_path: Path) -> None:
    steps: list[Any] = []
    assert await ask(socket_path, "echo", word="hello", progress=steps.append) == {"said": "hello"}
    assert steps == [{"step": 0}, {"step": 1}, {"step": 2}]


async def test_only_the_owner_may_connect(socket_path: Path) -> None:
    assert stat.S_IMODE(os.stat(socket_path).st_mode) == 0o600


async def test_an_error_arrives_with_its_hint_and_exit_code(socket_path: Path) -> None:
    with pytest.raises(ReportedError, match="somebody is in there") as caught:
        await ask(socket_path, "busy")
    assert (caught.value.hint, caught.value.exit_code) == ("ask them out", ExitCode.BUSY)


async def test_a_defect_in_one_request_leaves_the_others_alone(socket_path: Path) -> None:
    with pytest.raises(ReportedError, match="KeyError"):
        await ask(socket_path, "broken")
    with pytest.raises(ReportedError, match="unknown request"):
        await ask(socket_path, "dance")
    assert await ask(socket_path, "echo", word=1) == {"said": 1}


async def test_noise_is_ignored(socket_path: Path) -> None:
    for noise in (b"\n", b"[1]\n", b"not json\n", b"\xff\xfe\n"):
        async with await trio.open_unix_socket(socket_path) as stream:
            await stream.send_all(noise)
            assert await stream.receive_some(10) == b""
    async with await trio.open_unix_socket(socket_path) as stream:
        await stream.send_all(json.dumps({"do": "echo", "word": 2}).encode() + b"\n")
        # and does not wait for the answer
    assert await ask(socket_path, "echo", word=3) == {"said": 3}


def test_without_a_mount_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotMounted):
        request(tmp_path / "none", "status")


async def test_the_socket_goes_away_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "control"
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(path, {}).run)
        assert path.exists()
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_a_request_too_deep_to_parse_ends_nothing(socket_path: Path) -> None:
    async with await trio.open_unix_socket(socket_path) as stream:
        await stream.send_all(b"[" * 60_000 + b"\n")
        assert await stream.receive_some(10) == b""
    assert await ask(socket_path, "echo", word=4) == {"said": 4}


async def test_silent_connections_use_up_no_descriptors(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "REQUEST_PATIENCE", 0.05)
    monkeypatch.setattr(control, "MOST_CONNECTIONS", 2)
    await nursery.start(ControlServer(tmp_path / "control", {"echo": echo}).run)
    silent = [await trio.open_unix_socket(tmp_path / "control") for _ in range(3)]
    assert await silent[2].receive_some(10) == b""  # one too many
    for stream in silent:
        assert await stream.receive_some(10) == b""  # said nothing for too long
        await stream.aclose()
    assert await ask(tmp_path / "control", "echo", word=5) == {"said": 5}


async def test_idle_comes_with_the_last_answer_though_requests_came_meanwhile(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    arrived, leave = [trio.Event(), trio.Event()], trio.Event()

    async def wait(asked: Mapping[str, Any], tell: Tell) -> Any:
        arrived[asked["number"]].set()
        await leave.wait()

    server = ControlServer(tmp_path / "control", {"wait": wait})
    await nursery.start(server.run)
    with trio.fail_after(60):
        async with trio.open_nursery() as clients:
            clients.start_soon(partial(ask, tmp_path / "control", "wait", number=0))
            await arrived[0].wait()
            clients.start_soon(server.idle)
            await trio.testing.wait_all_tasks_blocked(0.01)
            clients.start_soon(partial(ask, tmp_path / "control", "wait", number=1))
            await arrived[1].wait()
            leave.set()


INTERRUPTED = """
import pathlib, signal, socket, sys, threading
from storjfs.daemon.client import request

path = pathlib.Path(sys.argv[1])
listener = socket.socket(socket.AF_UNIX)
listener.bind(str(path))
listener.listen()

def asked():
    asker, _ = listener.accept()
    asker.recv(100)
    # To a thread that waits for nothing: as one that comes right before the other begins to wait.
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    threading.Event().wait()

signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=asked, daemon=True).start()
try:
    request(path, "scrub")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_right_before_the_wait_for_an_answer_is_not_lost(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "control")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
