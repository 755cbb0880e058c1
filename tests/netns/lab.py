"""Networks of hosts on this machine: each host a network namespace; one namespace, the internet, joins them.

    with lab() as net:
        berlin, home = net.network("192.0.2.0/24"), net.network("198.51.100.0/24")
        server = net.host("server", berlin, down="100mbit", up="40mbit", delay=0.02, loss=0.01)
        router = net.router("router", home, "192.168.1.0/24")
        laptop = net.host("laptop", router.lan)
        router.forward(7420, laptop)
        laptop.run(["ping", "-c1", str(server.address)])
        berlin.cut()

Only the network is a host's own: its processes see everybody's files and processes. All of it ends with the
`with`, and what a killed test left behind ends with the next lab.
"""

import contextlib
import ctypes
import functools
import ipaddress
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

PATIENCE = 30.0
NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x40000000
BURST = 0.01
"""Seconds at full speed that a line passes on at once."""

UNREACHABLE = "reject with icmp type host-unreachable"

_counter = itertools.count()


@functools.cache
def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    assert found is not None, f"the tests of networks need {name} (nftables, iproute2, util-linux)"
    return found


def _do(*words: str, text: str | None = None) -> None:
    """One command, which has to work."""
    done = subprocess.run(
        [_program(words[0]), *words[1:]], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}{text or ''}"


def _ip(namespace: str, *lines: str) -> None:
    _do("ip", "-n", namespace, "-batch", "-", text="".join(f"{line}\n" for line in lines))


@dataclass
class Line:
    """The cable of one host: the interface `port` at the network's bridge. Changes hold at once."""

    port: str
    loss: float = 0.0
    cut: bool = False


class Namespace:
    """A network namespace that exists."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = NAMESPACES / name
        self.lines: list[Line] = []
        """Those that end at a bridge in here."""
        self.silent: set[str] = set()
        self.refusing: set[str] = set()
        """Interfaces that nothing is forwarded from or to, without a word or with ICMP."""
        _do("ip", "netns", "add", name)
        _ip(name, "link set lo up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in it meanwhile; sockets that it makes stay there. Never across an `await`."""
        with open("/proc/thread-self/ns/net") as before, self.path.open() as here:
            _set_namespace(here)
            try:
                yield
            finally:
                _set_namespace(before)

    def sysctl(self, name: str, value: object) -> None:
        """Such as ("net.ipv4.ip_forward", 1). One that this kernel does not have is passed over."""
        with self.entered():
            file = Path("/proc/sys", *name.split("."))
            if file.exists():
                file.write_text(str(value))

    def nft(self, script: str) -> None:
        """Rules of nftables, as `nft -f` takes them."""
        _do(*self.command(["nft", "-f", "-"]), text=script)

    def command(self, words: Sequence[str]) -> list[str]:
        """The words of a command that becomes `words` in here: the process has the same id."""
        # Not `ip netns exec`: that has mounts of its own; nobody else would see what is mounted there.
        return [_program("nsenter"), f"--net={self.path}", "--", words[0], *words[1:]]

    def apply(self) -> None:
        """Have the kernel do what the lines say."""
        came, goes = [], []
        for line in self.lines:
            chance = f"numgen random mod 100000 < {round(line.loss * 100000)} " if not line.cut else ""
            if line.cut or line.loss:
                came.append(f'iifname "{line.port}" {chance}drop')
                goes.append(f'oifname "{line.port}" {chance}drop')
        forward = [
            f'{way} "{one}" {what}'
            for names, what in (
                (self.silent, "drop"),
                (self.refusing, UNREACHABLE),
            )
            for one in sorted(names)
            for way in ("iifname", "oifname")
        ]
        self.nft(
            _table("bridge lines", ("came", "prerouting", came), ("goes", "postrouting", goes))
            + _table("ip networks", ("forward", "forward", forward))
        )


def _table(name: str, *chains: tuple[str, str, list[str]]) -> str:
    """A script that replaces this table."""
    body = "".join(
        "\n".join((f"chain {chain} {{", f"type filter hook {hook} priority 0;", *rules, "}\n"))
        for chain, hook, rules in chains
    )
    return f"table {name}\ndelete table {name}\ntable {name} {{\n{body}}}\n"


class Network:
    """One network of addresses: hosts on one bridge, in the internet or behind a router."""

    def __init__(self, where: Namespace, bridge: str, subnet: str) -> None:
        self.where = where
        self.bridge = bridge
        self.subnet = ipaddress.IPv4Network(subnet)
        self._free = self.subnet.hosts()
        self.gateway = next(self._free)
        # What hosts of one network send each other is not routed: rules for what is must not see it.
        where.sysctl("net.bridge.bridge-nf-call-iptables", 0)
        # An address of its own: else it would be that of some port, and change when a port comes.
        mac = "02:00:" + ":".join(f"{byte:02x}" for byte in self.gateway.packed)
        _ip(
            where.name,
            f"link add {bridge} address {mac} type bridge",
            f"link set {bridge} up",
            f"addr add {self.gateway}/{self.subnet.prefixlen} dev {bridge}",
        )

    def next_address(self) -> ipaddress.IPv4Address:
        """One that nobody has."""
        return next(self._free)

    def cut(self, *, silently: bool = True) -> None:
        """Nothing passes between it and all others; its own hosts still reach each other.

        Packets vanish, as when a cable is cut, or senders are told that the host cannot be reached.
        """
        (self.where.silent if silently else self.where.refusing).add(self.bridge)
        self.where.apply()

    def heal(self) -> None:
        """Undo `cut`."""
        self.where.silent.discard(self.bridge)
        self.where.refusing.discard(self.bridge)
        self.where.apply()


class Host(Namespace):
    """One computer: `address`, on `network`."""

    def __init__(self, name: str, network: Network, line: Line) -> None:
        super().__init__(name)
        self.network = network
        self.address = network.next_address()
        self._line = line
        self._running: list[subprocess.Popen[Any]] = []

    def connect(self) -> None:
        """Have an address and a way out on eth0, which is there."""
        _ip(
            self.name,
            f"addr add {self.address}/{self.network.subnet.prefixlen} dev eth0",
            "link set eth0 up",
            f"route add default via {self.network.gateway}",
        )
        self.network.where.lines.append(self._line)
        self.network.where.apply()

    def popen(self, words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process here; it is killed with the lab, if it still runs."""
        made: subprocess.Popen[Any] = subprocess.Popen(self.command(words), **options)
        self._running.append(made)
        return made

    def run(self, words: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """One command to its end; it has to work."""
        options = {"capture_output": True, "text": True, "timeout": PATIENCE, "check": True, **options}
        return subprocess.run(self.command(words), **options)

    def reap(self) -> None:
        """Kill what `popen` started."""
        for one in self._running:
            if one.poll() is None:
                one.kill()
            one.wait()

    def lose(self, share: float) -> None:
        """Of the packets in each direction, at random."""
        self._line.loss = share
        self.network.where.apply()

    def cut(self) -> None:
        """Nothing passes to or from it; nobody is told."""
        self._line.cut = True
        self.network.where.apply()

    def heal(self) -> None:
        """Undo `cut`."""
        self._line.cut = False
        self.network.where.apply()


@dataclass
class Forward:
    """A port of the router that is one of a host behind it."""

    port: int
    host: Host
    inner: int
    protocol: str = "tcp"


@dataclass
class Nat:
    """What a router does with addresses."""

    symmetric: bool = False
    """A connection gets any port, not that of the sender: what one peer sees is useless to another."""
    hairpin: bool = True
    """Hosts behind it reach its forwarded ports under its outer address."""
    forwards: list[Forward] = field(default_factory=list)


class Router(Host):
    """A router at home: its `lan` is behind one address. Who comes uninvited hears nothing."""

    def __init__(self, name: str, network: Network, line: Line) -> None:
        super().__init__(name, network, line)
        self.nat = Nat()
        self.lan: Network

    def forward(self, port: int, host: Host, inner: int | None = None, protocol: str = "tcp") -> None:
        """Have `port` outside lead to `inner` (the same port) of a host behind it."""
        self.nat.forwards.append(Forward(port, host, inner or port, protocol))
        self.translate()

    def unforward(self, port: int, protocol: str = "tcp") -> None:
        """Undo `forward`; what is connected stays so."""
        self.nat.forwards = [one for one in self.nat.forwards if (one.port, one.protocol) != (port, protocol)]
        self.translate()

    def translate(self) -> None:
        """Have the kernel do what `nat` says."""
        outside = "" if self.nat.hairpin else 'iifname "eth0" '
        forwards = "".join(
            f"{outside}ip daddr {self.address} {one.protocol} dport {one.port}"
            f" dnat to {one.host.address}:{one.inner}\n"
            for one in self.nat.forwards
        )
        self.nft(
            "table ip home\ndelete table ip home\ntable ip home {\n"
            f"chain before {{ type nat hook prerouting priority dstnat;\n{forwards}}}\n"
            "chain after { type nat hook postrouting priority srcnat;\n"
            f'oifname "eth0" masquerade {"fully-random" if self.nat.symmetric else ""}\n'
            'iifname "lan" oifname "lan" ct status dnat masquerade\n}\n'
            "chain through { type filter hook forward priority 0;\n"
            'iifname "eth0" ct state established,related accept\n'
            'iifname "eth0" ct status dnat accept\n'
            'iifname "eth0" drop\n}\n'
            "chain into { type filter hook input priority 0;\n"
            'iifname "eth0" ct state established,related accept\n'
            'iifname "eth0" drop\n}\n}\n'
        )


class Lab:
    """Networks and hosts. Made by `lab()`."""

    def __init__(self) -> None:
        self._prefix = f"storjfs.{os.getpid()}.{_started(os.getpid())}.{next(_counter)}."
        self._ports = itertools.count()
        self._delays: list[subprocess.Popen[bytes]] = []
        self.hosts: list[Host] = []
        self.internet = Namespace(f"{self._prefix}internet")
        self.internet.sysctl("net.ipv4.ip_forward", 1)
        self._between = Namespace(f"{self._prefix}lines")
        # Both ends of delayed lines are in it, and it must not answer for anybody.
        self._between.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
        self._between.sysctl("net.ipv6.conf.default.disable_ipv6", 1)

    def network(self, subnet: str) -> Network:
        """A network of the internet, such as "192.0.2.0/24"; its first address is the gateway's."""
        return Network(self.internet, f"net{next(self._ports)}", subnet)

    def host(
        self,
        name: str,
        network: Network,
        *,
        down: str | None = None,
        up: str | None = None,
        delay: float = 0.0,
        loss: float = 0.0,
    ) -> Host:
        """A host with its own line.

        `down` and `up` are rates as tc has them ("20mbit"), `delay` seconds in each direction, `loss` the
        share of packets that vanish in each direction.
        """
        made = Host(f"{self._prefix}{name}", network, Line(f"port{next(self._ports)}", loss))
        self._join(made, made._line.port, delay)
        _limit(network.where, made._line.port, down)
        _limit(made, "eth0", up)
        return made

    def router(
        self, name: str, network: Network, lan: str, *, hairpin: bool = True, symmetric: bool = False
    ) -> Router:
        """A router with a network behind it; `network` may itself be behind one (carrier-grade NAT)."""
        made = Router(f"{self._prefix}{name}", network, Line(f"port{next(self._ports)}"))
        self._join(made, made._line.port, 0.0)
        made.sysctl("net.ipv4.ip_forward", 1)
        made.lan = Network(made, "lan", lan)
        made.nat = Nat(symmetric, hairpin)
        made.translate()
        return made

    def _join(self, host: Host, port: str, delay: float) -> None:
        """A cable from the host's eth0 to `port` of its network."""
        where = host.network.where.name
        if delay:
            inner, outer = f"in-{port}", f"out-{port}"
            between = self._between.name
            _ip(
                where,
                f"link add {inner} netns {between} type veth peer name eth0 netns {host.name}",
                f"link add {outer} netns {between} type veth peer name {port} netns {where}",
            )
            _ip(between, f"link set {inner} up", f"link set {outer} up")
            self._delay(inner, outer, delay)
        else:
            _ip(where, f"link add {port} netns {where} type veth peer name eth0 netns {host.name}")
        _ip(where, f"link set {port} master {host.network.bridge}", f"link set {port} up")
        self.hosts.append(host)
        host.connect()

    def _delay(self, inner: str, outer: str, delay: float) -> None:
        program = str(Path(__file__).with_name("delay.py"))
        words = self._between.command([sys.executable, "-I", "-S", program, inner, outer, str(delay)])
        # Nothing of the test's own: who waits for the end of its output must not wait for this process.
        made = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._delays.append(made)
        assert made.stdout is not None
        assert made.stdout.readline() == b"ready\n"

    def close(self) -> None:
        """Kill all processes of the hosts, and remove everything."""
        for host in self.hosts:
            host.reap()
        for one in self._delays:
            one.kill()
            one.communicate()
        _remove([one.name for one in NAMESPACES.iterdir() if one.name.startswith(self._prefix)])


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """A lab without hosts; in the end nothing of it is left. Needs root."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces")
    _sweep()
    made = Lab()
    try:
        yield made
    finally:
        made.close()


def _limit(where: Namespace, interface: str, rate: str | None) -> None:
    if rate is None:
        return
    number, unit = re.fullmatch(r"(\d+)([kmg])bit", rate).groups()  # type: ignore[union-attr]
    burst = max(int(number) * 1000 ** ("kmg".index(unit) + 1) // 8 * BURST, 16 << 10)
    _do(
        *("tc", "-n", where.name, "qdisc", "add", "dev", interface, "root"),
        *("tbf", "rate", rate, "burst", str(int(burst)), "latency", "100ms"),
    )


def _sweep() -> None:
    """Remove what labs left whose process was killed."""
    if not NAMESPACES.exists():
        return
    left = []
    for one in NAMESPACES.iterdir():
        owner = re.match(r"storjfs\.(\d+)\.(\d+)\.", one.name)
        if owner and _started(int(owner[1])) != int(owner[2]):
            left.append(one.name)
    _remove(left)


def _remove(names: list[str]) -> None:
    """Namespaces, and all processes in them."""
    inodes = set()
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            inodes.add((NAMESPACES / name).stat().st_ino)
    deadline = time.monotonic() + PATIENCE
    while pids := [pid for pid in _pids() if _namespace_of(pid) in inodes]:
        assert time.monotonic() < deadline, f"processes {pids} do not die"
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    for name in names:
        # Another lab may sweep at the same time.
        subprocess.run([_program("ip"), "netns", "delete", name], capture_output=True, check=False)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def _namespace_of(pid: int) -> int | None:
    """The inode of the network namespace of a process; None once it has died."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def _started(pid: int) -> int:
    """When a process started, in ticks since boot: with its id that names it. 0 for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0
    return int(fields[19]) if fields[0] != "Z" else 0


def _set_namespace(file: IO[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
