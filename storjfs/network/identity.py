"""Who is at the other end: TLS 1.3 on both sides with the node's own Ed25519 key.

Python's ssl accepts no unknown self-signed certificates from clients, so every leaf is signed by the *open
CA*, whose private key follows from a constant in this file. Its signature carries no trust whatever: anybody
can make one. What counts: TLS 1.3 (RFC 8446, CertificateVerify) proves possession of the leaf's key,
and that key is the node id, which `peer_of` reads and the caller compares. Nothing in a certificate depends
on time or chance.
"""

import datetime
import os
import ssl
from functools import cache, cached_property
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from storjfs.network.failures import WrongPeer
from storjfs.protocol.ids import NodeId
from storjfs.protocol.signing import SigningKey

_OPEN_CA_SEED: Final = sha256(b"storjfs open CA, not a secret, carries no trust").digest()
_FROM: Final = datetime.datetime(1970, 1, 1)
_UNTIL: Final = datetime.datetime(9999, 12, 31, 23, 59, 59)
_CA_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "storjfs open CA")])


class Identity:
    """The key a node shows to its peers, with the TLS contexts made from it. Shows no secret when printed."""

    def __init__(self, seed: bytes) -> None:
        """`seed`: the 32 secret bytes of an Ed25519 key. Raises ValueError."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.signing = SigningKey(seed)
        self.node_id: NodeId = self.signing.node_id

    @cached_property
    def client(self) -> ssl.SSLContext:
        """For the side that dials."""
        return _context(ssl.PROTOCOL_TLS_CLIENT, self._key)

    @cached_property
    def server(self) -> ssl.SSLContext:
        """For the side that listens."""
        return _context(ssl.PROTOCOL_TLS_SERVER, self._key)

    def __repr__(self) -> str:
        return f"Identity({self.node_id.hex()[:8]})"


def peer_of(tls: ssl.SSLObject) -> NodeId:
    """The node id of the other side after a handshake. Raises WrongPeer where its key is no Ed25519 key."""
    certificate = tls.getpeercert(binary_form=True)
    if certificate is None:
        raise WrongPeer("the peer shows no certificate")
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except Exception as error:  # the parser's ways to fail are many, and the bytes are a stranger's
        raise WrongPeer("the peer's certificate is malformed or of an unknown kind") from error
    if not isinstance(key, Ed25519PublicKey):
        raise WrongPeer("the peer's key is not an Ed25519 key")
    return NodeId(key.public_bytes(Encoding.Raw, PublicFormat.Raw))


@cache
def _open_ca() -> tuple[Ed25519PrivateKey, bytes]:
    key = Ed25519PrivateKey.from_private_bytes(_OPEN_CA_SEED)
    builder = _certificate(_CA_NAME, key.public_key(), 1)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return key, builder.sign(key, None).public_bytes(Encoding.DER)


def leaf_certificate(public: Ed25519PublicKey) -> bytes:
    """The certificate (PEM) of a node, always the same for the same key."""
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, raw.hex()[:32])])
    serial = int.from_bytes(sha256(raw).digest()[:16], "big") | 1
    builder = _certificate(name, public, serial)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return builder.sign(_open_ca()[0], None).public_bytes(Encoding.PEM)


def _certificate(name: x509.Name, public: Ed25519PublicKey, serial: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(_CA_NAME)
        .subject_name(name)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
    )


def _context(protocol: int, key: Ed25519PrivateKey) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=_open_ca()[1])
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # no resumption: each connection proves the key anew
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + leaf_certificate(
        key.public_key()
    )
    # ssl loads keys from files only; this one lives in memory and never reaches a disk.
    memory = os.memfd_create("storjfs-identity", os.MFD_CLOEXEC)
    try:
        os.write(memory, pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    return context
