"""The key file: a volume's entropy sealed under a passphrase, or plain for unattended use.

Sealed: Argon2id (RFC 9106; libsodium's crypto_pwhash, version 1.3, one lane) makes the key of a SecretBox
(XSalsa20-Poly1305). The file records the cost parameters and the salt, so that they can grow later.
"""

import hashlib
import os
import struct
import unicodedata
from dataclasses import dataclass

from nacl import pwhash
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from storjfs.errors import StorjfsError
from storjfs.keys.phrase import ENTROPY_BYTES

MAGIC = b"STORJFSK"
VERSION = 1
PLAIN = 0
ARGON2ID_SECRETBOX = 1

_HEADER = struct.Struct(">8sBB")
_COST = struct.Struct(">II16s")
_CHECKSUM_BYTES = 8
# A key file asking for more than this is damaged or hostile; refusing beats swapping the machine to death.
_MOST_OPS = 1 << 16
_MOST_MEM_KIB = 4 << 20


@dataclass(frozen=True, slots=True)
class Hardness:
    """What one guess of the passphrase costs: Argon2id passes over `mem_kib` KiB of memory."""

    ops: int
    mem_kib: int


MODERATE = Hardness(pwhash.argon2id.OPSLIMIT_MODERATE, pwhash.argon2id.MEMLIMIT_MODERATE // 1024)
"""256 MiB, three passes: about a second on a small machine; what new key files use."""

INTERACTIVE = Hardness(pwhash.argon2id.OPSLIMIT_INTERACTIVE, pwhash.argon2id.MEMLIMIT_INTERACTIVE // 1024)
"""64 MiB, two passes: for machines with little memory."""


class KeyFileDamaged(StorjfsError):
    """The key file is not one, is cut short or changed, or was written by a newer version."""


class PassphraseNeeded(StorjfsError):
    """The key file is sealed and no passphrase was given."""


class WrongPassphrase(StorjfsError):
    """The passphrase does not open the key file (whose checksum is right)."""


def seal_entropy(
    entropy: bytes,
    passphrase: str,
    hardness: Hardness = MODERATE,
    *,
    salt: bytes | None = None,
    nonce: bytes | None = None,
) -> bytes:
    """The bytes of a key file that only `passphrase` opens. Blocks for as long as `hardness` asks.

    Salt (16 bytes) and nonce (24) are fresh and random unless given, which only test vectors do.
    """
    _check_length(entropy)
    salt = os.urandom(pwhash.argon2id.SALTBYTES) if salt is None else salt
    body = _HEADER.pack(MAGIC, VERSION, ARGON2ID_SECRETBOX) + _COST.pack(hardness.ops, hardness.mem_kib, salt)
    box = bytes(_box(passphrase, hardness, salt).encrypt(entropy, nonce))
    return _with_checksum(body + box)


def plain_entropy(entropy: bytes) -> bytes:
    """The bytes of a key file that opens without a passphrase; keep it in a file of mode 0600."""
    _check_length(entropy)
    return _with_checksum(_HEADER.pack(MAGIC, VERSION, PLAIN) + entropy)


def needs_passphrase(key_file: bytes) -> bool:
    """Whether these bytes of a key file are sealed. Raises KeyFileDamaged."""
    return _kind(key_file) == ARGON2ID_SECRETBOX


def open_sealed(key_file: bytes, passphrase: str | None = None) -> bytes:
    """The entropy in a key file of either form. Blocks for as long as its cost parameters ask.

    Raises PassphraseNeeded, WrongPassphrase or KeyFileDamaged. A passphrase given for a plain file is unused.
    """
    kind = _kind(key_file)
    body = key_file[_HEADER.size : -_CHECKSUM_BYTES]
    if kind == PLAIN:
        return _entropy_or_damaged(body)
    if passphrase is None:
        raise PassphraseNeeded(
            "this volume is locked with a passphrase and none was given",
            hint="Give it at the prompt, or with --passphrase-file or --passphrase-command.",
        )
    if len(body) <= _COST.size:
        raise _damaged("it is cut short")
    ops, mem_kib, salt = _COST.unpack_from(body)
    if not (1 <= ops <= _MOST_OPS and 8 <= mem_kib <= _MOST_MEM_KIB):
        raise _damaged("its cost parameters make no sense")
    try:
        return _entropy_or_damaged(_box(passphrase, Hardness(ops, mem_kib), salt).decrypt(body[_COST.size :]))
    except CryptoError:
        raise WrongPassphrase(
            "wrong passphrase",
            hint="Try again; with the recovery phrase a new one is made: "
            "storjfs passphrase change --phrase-file FILE",
        ) from None


def _box(passphrase: str, hardness: Hardness, salt: bytes) -> SecretBox:
    # One passphrase typed on two keyboards can arrive in two Unicode forms.
    secret = unicodedata.normalize("NFC", passphrase).encode()
    try:
        key = pwhash.argon2id.kdf(
            SecretBox.KEY_SIZE, secret, salt, opslimit=hardness.ops, memlimit=hardness.mem_kib * 1024
        )
    except (MemoryError, RuntimeError) as error:  # what PyNaCl raises where libsodium could not allocate
        raise StorjfsError(
            f"opening the key file needs {hardness.mem_kib // 1024} MiB of free memory",
            hint="Close other programs and try again.",
        ) from error
    return SecretBox(key)


def _kind(key_file: bytes) -> int:
    if len(key_file) < _HEADER.size + _CHECKSUM_BYTES or not key_file.startswith(MAGIC):
        raise _damaged("it is not a key file of storjfs")
    _, version, kind = _HEADER.unpack_from(key_file)
    if version != VERSION:
        raise _damaged(f"it has format version {version}, and this storjfs knows version {VERSION}")
    if key_file != _with_checksum(key_file[:-_CHECKSUM_BYTES]):
        raise _damaged("its checksum is wrong")
    if kind not in (PLAIN, ARGON2ID_SECRETBOX):
        raise _damaged(f"it has the unknown form {kind}")
    return int(kind)


def _with_checksum(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()[:_CHECKSUM_BYTES]


def _entropy_or_damaged(entropy: bytes) -> bytes:
    if len(entropy) != ENTROPY_BYTES:
        raise _damaged("it holds a key of the wrong length")
    return bytes(entropy)


def _check_length(entropy: bytes) -> None:
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"the entropy of a volume is {ENTROPY_BYTES} bytes, not {len(entropy)}")


def _damaged(what: str) -> KeyFileDamaged:
    return KeyFileDamaged(
        f"the key file cannot be used: {what}",
        hint="Restore it from a backup, or make it anew from the recovery phrase.",
    )
