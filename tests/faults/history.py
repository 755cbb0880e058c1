"""What programs ask of a drive, one request after the other, and what the drive consists of after each."""

import hashlib
import random
from dataclasses import dataclass, field
from typing import Final

NAMES: Final = [b"a", b"b", b"c", b"d"]
FOLDERS: Final = [b"one", b"two"]
OFTEN: Final = (
    ["make"] * 8
    + ["write"] * 12
    + ["overwrite", "cut", "move", "fsync", "nudge"] * 2
    + [
        "remove",
        "link",
        "symlink",
        "mkdir",
        "rmdir",
        "xattr",
        "hold",
        "flush",
        "checkpoint",
        "compact",
        "pause",
        "evict",
    ]
)


@dataclass(frozen=True, slots=True)
class Request:
    """`kind` is a change (make, write, cut, move, link, remove, mkdir, rmdir, symlink, xattr) or something
    else that programs or the daemon do (fsync, nudge, flush, checkpoint, compact, pause, evict, hold, let
    go)."""

    kind: str
    path: bytes = b""
    other: bytes = b""
    offset: int = 0
    size: int = 0
    seed: int = 0

    @property
    def data(self) -> bytes:
        """What is written: like no other request's."""
        return random.Random(self.seed).randbytes(self.size)

    @property
    def changes(self) -> bool:
        return self.kind in CHANGES


CHANGES: Final = frozenset(
    {"make", "write", "cut", "move", "link", "remove", "mkdir", "rmdir", "symlink", "xattr"}
)


@dataclass(slots=True, eq=False)
class Node:
    """A file, directory (`content` None) or symlink (`target`)."""

    content: bytearray | None = None
    target: bytes | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


Tree = dict[bytes, tuple[str, str, int]]
"""By path: kind and fingerprint of the content, fingerprint of the attributes, number of names."""


def described(kind: str, content: bytes, xattrs: dict[bytes, bytes], links: int) -> tuple[str, str, int]:
    """One entry of a Tree."""
    hashed = hashlib.sha256(content).hexdigest()[:16]
    attributes = hashlib.sha256(repr(sorted(xattrs.items())).encode()).hexdigest()[:16]
    return f"{kind} {len(content)} {hashed}", attributes, 0 if kind == "directory" else links


class Model:
    """What a drive must be after some requests; paths are relative, without a leading slash."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, Node] = {}

    def apply(self, request: Request) -> None:
        nodes, path = self.nodes, request.path
        match request.kind:
            case "make":
                nodes[path] = Node(bytearray())
            case "mkdir":
                nodes[path] = Node()
            case "symlink":
                nodes[path] = Node(target=request.other)
            case "write":
                content = self._content(path)
                end = request.offset + request.size
                content.extend(bytes(max(0, end - len(content))))
                content[request.offset : end] = request.data
            case "cut":
                content = self._content(path)
                del content[request.size :]
                content.extend(bytes(request.size - len(content)))
            case "move":
                nodes[request.other] = nodes.pop(path)
            case "link":
                nodes[request.other] = nodes[path]
            case "remove" | "rmdir":
                del nodes[path]
            case "xattr":
                nodes[path].xattrs[request.other] = request.data

    def _content(self, path: bytes) -> bytearray:
        content = self.nodes[path].content
        assert content is not None
        return content

    def tree(self) -> Tree:
        names = list(self.nodes.values())
        return {
            path: described(
                "symlink" if node.target is not None else "directory" if node.content is None else "file",
                node.target or bytes(node.content or b""),
                node.xattrs,
                names.count(node),
            )
            for path, node in self.nodes.items()
        }

    def allows(self, request: Request) -> bool:
        """Whether the request can succeed now, apart from errors of the disk."""
        path, other = request.path, request.other
        node, folder = self.nodes.get(path), path.rpartition(b"/")[0]
        if folder and folder not in self.nodes:
            return False
        match request.kind:
            case "make" | "mkdir" | "symlink":
                return node is None
            case "write" | "cut" | "hold":
                return node is not None and node.content is not None
            case "move" | "link":
                if node is None or (b"/" in other and other.rpartition(b"/")[0] not in self.nodes):
                    return False
                target = self.nodes.get(other)
                return target is not node if request.kind == "move" else target is None
            case "remove" | "xattr" | "rmdir":
                return node is not None and (request.kind != "rmdir" or self.is_empty(path))
        return True

    def files(self) -> list[bytes]:
        return sorted(path for path, node in self.nodes.items() if node.content is not None)

    def is_empty(self, folder: bytes) -> bool:
        return not any(path.startswith(folder + b"/") for path in self.nodes)


FIRST: Final = [
    Request("make", b"a"),
    Request("write", b"a", size=150_000, seed=1),
    Request("make", b"b"),
    Request("write", b"b", size=150_000, seed=2),
    Request("fsync"),
    Request("flush"),
    Request("checkpoint"),
    Request("write", b"a", size=149_000, seed=3),
    Request("fsync"),
    Request("flush"),
    Request("compact"),
    Request("fsync"),
    Request("hold", b"b"),
    Request("remove", b"b"),
    Request("fsync"),
    Request("let go", b"b"),
    Request("fsync"),
    Request("make", b"c"),
    Request("write", b"c", size=5000, seed=4),
    Request("fsync"),
    Request("move", b"c", b"a"),
    Request("pause"),
    Request("evict"),
    Request("fsync"),
]
"""Takes segments through all of their lives (closed full and early, sent, cached, compacted, deleted), an
inode through being open without a name, and a file through its safe replacement."""


def random_history(seed: int, length: int) -> list[Request]:
    """FIRST, and then requests of every kind, all of which succeed."""
    chance = random.Random(seed)
    model, held = Model(), set[bytes]()
    history = FIRST[:length]
    for request in history:
        model.apply(request)
    number = seed << 20
    while len(history) < length:
        number += 1
        request = _perhaps(chance, model, number)
        if not model.allows(request):
            continue
        if request.kind == "hold" and (request.path in held or len(held) == 3):
            # Held open, so that its content outlives its name until it is let go.
            request = Request("let go", held.pop())
        elif request.kind == "hold":
            held.add(request.path)
        model.apply(request)
        history.append(request)
    return history


def _perhaps(chance: random.Random, model: Model, number: int) -> Request:
    """Some request, which need not be possible."""
    path, other = _path(chance), _path(chance)
    node = model.nodes.get(path)
    length = len(node.content) if node is not None and node.content is not None else 0
    match chance.choice(OFTEN):
        case "write":
            size = chance.choice((1, 700, 5000, 40_000, 150_000))
            return Request("write", path, offset=length, size=size, seed=number)
        case "overwrite":
            offset, size = chance.randrange(length + 5000), chance.randrange(1, 9000)
            return Request("write", path, offset=offset, size=size, seed=number)
        case "cut":
            return Request("cut", path, size=chance.randrange(length * 5 // 4 + 1))
        case "move" | "link" as kind:
            return Request(kind, path, other)
        case "mkdir" | "rmdir" as kind:
            return Request(kind, chance.choice(FOLDERS))
        case "symlink":
            return Request("symlink", path, b"target %d" % number)
        case "xattr":
            name, size = b"user.x%d" % chance.randrange(3), chance.randrange(1, 300)
            return Request("xattr", path, name, size=size, seed=number)
        case "make" | "remove" | "hold" as kind:
            return Request(kind, path)
        case kind:
            return Request(kind)


def _path(chance: random.Random) -> bytes:
    name = chance.choice(NAMES)
    return name if chance.random() < 0.6 else chance.choice(FOLDERS) + b"/" + name


def trees(history: list[Request]) -> list[Tree]:
    """What the drive is before the first request, after the first, and so on."""
    model = Model()
    found = [model.tree()]
    for request in history:
        if request.changes:
            model.apply(request)
            found.append(model.tree())
        else:
            found.append(found[-1])
    return found
