"""What can go wrong on the way to a peer; what it answers is in storjfs.protocol.failures."""

from storjfs.errors import StorjfsError


class PeerUnreachable(StorjfsError):
    """No connection, or it broke before the answer came. What was asked may or may not have happened.

    `retry_after`: seconds until the next attempt to connect is made; earlier calls fail at once.
    """

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class WrongPeer(PeerUnreachable):
    """Somebody else answers at this address, or with a key of another kind than Ed25519."""


class RequestTimeout(StorjfsError):
    """The peer is connected but did not answer in time. What was asked may or may not have happened."""
