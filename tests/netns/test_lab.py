"""The lab itself: what it promises to tests of networks."""

import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.e2e.drive import alive

from .lab import NAMESPACES, Host, Lab, Network, lab

PORT = 7420


@pytest.fixture
def net() -> Iterator[Lab]:
    """A lab."""
    with lab() as made:
        yield made


@contextlib.contextmanager
def echo(host: Host, port: int = PORT) -> Iterator[list[str]]:
    """A server there that sends back what comes; who came is in the list."""
    came: list[str] = []

    def answer(one: socket.socket) -> None:
        # A connection whose line stays cut ends too.
        one.settimeout(10)
        with one, contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                one.sendall(data)

    def serve(listener: socket.socket) -> None:
        threads = []
        with contextlib.suppress(OSError):
            while True:
                one, (address, _) = listener.accept()
                came.append(address)
                threads.append(threading.Thread(target=answer, args=(one,)))
                threads[-1].start()
        for thread in threads:
            thread.join()

    with host.entered():
        listener = socket.create_server((str(host.address), port))
    thread = threading.Thread(target=serve, args=(listener,))
    thread.start()
    try:
        yield came
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def dial(host: Host, address: object, port: int = PORT, patience: float = 5) -> socket.socket:
    """A connection from there."""
    with host.entered():
        return socket.create_connection((str(address), port), patience)


def answers(host: Host, address: object, port: int = PORT, patience: float = 5) -> bool:
    """Whether the echo server there does."""
    try:
        with dial(host, address, port, patience) as one:
            one.sendall(b"?")
            return one.recv(1) == b"?"
    except OSError:
        return False


def test_hosts_of_several_networks_reach_each_other_with_their_own_addresses(net: Lab) -> None:
    near, far = net.network("192.0.2.0/24"), net.network("198.51.100.0/24")
    a, b, c = net.host("a", near), net.host("b", near), net.host("c", far)
    with echo(c) as came:
        assert answers(a, c.address)
        assert answers(b, c.address)
    assert came == ["192.0.2.2", "192.0.2.3"]


def test_processes_of_a_host_have_its_network_and_everybodys_files(net: Lab) -> None:
    host = net.host("a", net.network("192.0.2.0/24"))
    mine = os.readlink("/proc/thread-self/ns/net")
    with host.entered():
        its = os.readlink("/proc/thread-self/ns/net")
    assert os.readlink("/proc/thread-self/ns/net") == mine != its
    said = host.run(["readlink", "/proc/self/ns/net", "/proc/self/ns/mnt"]).stdout.split()
    assert said == [its, os.readlink("/proc/self/ns/mnt")]


@pytest.mark.parametrize("silently", [True, False])
def test_a_network_is_cut_off_and_heals(net: Lab, silently: bool) -> None:
    near, far = net.network("192.0.2.0/24"), net.network("198.51.100.0/24")
    a, b, c = net.host("a", near), net.host("b", far), net.host("c", far)
    with echo(b), dial(a, b.address) as open_one:
        far.cut(silently=silently)
        with a.entered(), pytest.raises(TimeoutError if silently else OSError) as caught:
            socket.create_connection((str(b.address), PORT), 1)
        assert isinstance(caught.value, TimeoutError) == silently
        assert answers(c, b.address)
        open_one.sendall(b"late")
        far.heal()
        assert open_one.recv(4) == b"late"


def test_a_host_is_cut_off_from_its_neighbours_too(net: Lab) -> None:
    near = net.network("192.0.2.0/24")
    a, b = net.host("a", near), net.host("b", near)
    with echo(b):
        b.cut()
        assert not answers(a, b.address, patience=1)
        b.heal()
        assert answers(a, b.address)


def test_a_router_lets_out_all_and_in_only_what_is_forwarded(net: Lab) -> None:
    outside = net.host("outside", net.network("192.0.2.0/24"))
    router = net.router("router", net.network("198.51.100.0/24"), "192.168.1.0/24", hairpin=False)
    inside, other = net.host("inside", router.lan), net.host("other", router.lan)
    with echo(outside) as came:
        assert answers(inside, outside.address)
    assert came == [str(router.address)]
    with echo(inside, 80) as came:
        assert not answers(outside, router.address, patience=1)
        assert not answers(outside, inside.address, 80, patience=1)
        router.forward(PORT, inside, 80)
        assert answers(outside, router.address)
        assert not answers(other, router.address)
        router.nat.hairpin = True
        router.translate()
        assert answers(other, router.address)
        router.unforward(PORT)
        assert not answers(outside, router.address, patience=1)
    assert came == [str(outside.address), str(router.lan.gateway)]


def test_a_symmetric_router_shows_each_peer_another_port(net: Lab) -> None:
    where = net.network("192.0.2.0/24")
    peers = [net.host(f"peer{number}", where) for number in range(2)]
    for symmetric in (False, True):
        router = net.router(f"router{symmetric}", where, "192.168.1.0/24", symmetric=symmetric)
        inside = net.host(f"inside{symmetric}", router.lan)
        seen = [seen_port(inside, peer) for peer in peers]
        assert (seen == [5000, 5000]) != symmetric, seen


def seen_port(host: Host, peer: Host) -> int:
    """Of a datagram that comes from its port 5000."""
    with peer.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with host.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind((str(peer.address), PORT))
        receiver.settimeout(5)
        sender.bind((str(host.address), 5000))
        sender.sendto(b"?", (str(peer.address), PORT))
        port: int = receiver.recvfrom(1)[1][1]
        return port


def test_behind_two_routers(net: Lab) -> None:
    outside = net.host("outside", net.network("192.0.2.0/24"))
    carrier = net.router("carrier", net.network("198.51.100.0/24"), "100.64.0.0/24")
    home = net.router("home", carrier.lan, "192.168.1.0/24")
    inside = net.host("inside", home.lan)
    with echo(outside) as came:
        assert answers(inside, outside.address)
    assert came == [str(carrier.address)]


def test_a_line_is_as_slow_as_said(net: Lab) -> None:
    near, far = net.network("192.0.2.0/24"), net.network("198.51.100.0/24")
    a, b = net.host("a", near, delay=0.05), net.host("b", far, delay=0.025)
    with echo(b):
        assert answers(a, b.address)
        with dial(a, b.address) as one:
            start = time.monotonic()
            one.sendall(b"?")
            assert one.recv(1) == b"?"
            # Not more, whatever the machine does: only that it is not less.
            assert time.monotonic() - start >= 0.15


def moved(sender: Host, receiver: Host, size: int) -> float:
    """Seconds for `size` bytes from one to the other, which arrive whole."""
    with receiver.entered():
        listener = socket.create_server((str(receiver.address), PORT))
    content = os.urandom(1 << 16) * (size >> 16)
    with listener, dial(sender, receiver.address) as out:
        found = bytearray()

        def receive() -> None:
            one, _ = listener.accept()
            with one:
                while data := one.recv(1 << 18):
                    found.extend(data)

        thread = threading.Thread(target=receive)
        thread.start()
        start = time.monotonic()
        out.sendall(content)
        out.shutdown(socket.SHUT_WR)
        thread.join()
        taken = time.monotonic() - start
    assert bytes(found) == content
    return taken


def test_rates_hold_for_each_direction(net: Lab) -> None:
    where = net.network("192.0.2.0/24")
    fast, slow = net.host("fast", where), net.host("slow", where, down="16mbit", up="8mbit")
    size = 1 << 20
    assert moved(fast, slow, size) >= 0.9 * size / 2e6
    assert moved(slow, fast, size) >= 0.9 * size / 1e6


def test_a_line_that_delays_and_loses_delivers_all_the_same(net: Lab) -> None:
    near, far = net.network("192.0.2.0/24"), net.network("198.51.100.0/24")
    a, b = net.host("a", near, delay=0.002), net.host("b", far, loss=0.02)
    moved(a, b, 8 << 20)
    before = dropped(b.network)
    b.lose(0.5)
    assert not all(pinged(a, b) for _ in range(20))
    b.lose(0)
    assert all(pinged(a, b) for _ in range(20))
    assert before


def pinged(a: Host, b: Host) -> bool:
    """Whether a datagram arrives."""
    with b.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with a.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind((str(b.address), PORT))
        sender.sendto(b"?", (str(b.address), PORT))
        return bool(select.select([receiver], [], [], 0.5)[0])


def dropped(network: Network) -> bool:
    """Whether rules that lose packets are there."""
    said = subprocess.run(
        network.where.command(["nft", "list", "ruleset"]), capture_output=True, text=True, check=True
    )
    return "numgen random" in said.stdout


def test_all_of_it_ends_with_the_lab_and_with_the_next_one_after_a_kill() -> None:
    script = (
        "from tests.netns.lab import lab\n"
        "import os, subprocess, sys, signal\n"
        "with lab() as net:\n"
        "    a = net.host('a', net.network('192.0.2.0/24'), delay=0.01)\n"
        "    one = a.popen(['sleep', '1000'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "    print(one.pid, net.internet.name, flush=True)\n"
        "    if sys.argv[1] == 'kill':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for how in ("end", "kill"):
        done = subprocess.run(
            [sys.executable, "-c", script, how], capture_output=True, text=True, check=False
        )
        pid, name = done.stdout.split()
        prefix = name.removesuffix("internet")
        left = [one.name for one in NAMESPACES.iterdir() if one.name.startswith(prefix)]
        assert len(left) == (3 if how == "kill" else 0)
        if how == "kill":
            assert alive(int(pid))
            with lab():
                pass
            assert not [one.name for one in NAMESPACES.iterdir() if one.name.startswith(prefix)]
        assert not alive(int(pid))
