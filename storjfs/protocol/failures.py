"""What can go wrong between two peers: breaches of the protocol, and refusals with a code and a text."""

import enum

from storjfs.errors import StorjfsError


class ProtocolViolation(StorjfsError):
    """Bytes from the other side that the protocol does not allow. The connection is not used any further."""


class BadSignature(ProtocolViolation):
    """A signature does not fit its bytes, its kind or its signer."""


class IllegalTransition(StorjfsError):
    """A contract cannot take this event in its present state."""


class ErrorCode(enum.IntEnum):
    """Why a request was refused. The numbers are part of the wire format; none ever gets a new meaning."""

    INTERNAL = 1
    UNSUPPORTED = 2
    BAD_REQUEST = 3
    UNKNOWN_CONTRACT = 4
    UNKNOWN_SHARD = 5
    REFUSED = 6
    NO_SPACE = 7
    PAYMENT_REQUIRED = 8
    NOT_FUNDED = 9
    CONTRACT_OVER = 10
    STALE = 11
    BUSY = 12
    CORRUPT = 13
    LAPSED = 14
    NOT_YOURS = 15
    CONFLICT = 16
    CANCELLED = 17
    NOT_ATTACHED = 18


TEXTS: dict[ErrorCode, str] = {
    ErrorCode.INTERNAL: "the other side failed on this request; its log says why",
    ErrorCode.UNSUPPORTED: "the other side does not know this request",
    ErrorCode.BAD_REQUEST: "the request does not make sense to the other side",
    ErrorCode.UNKNOWN_CONTRACT: "the farmer has no such contract with us",
    ErrorCode.UNKNOWN_SHARD: "the farmer does not hold this shard",
    ErrorCode.REFUSED: "the farmer does not accept these terms",
    ErrorCode.NO_SPACE: "the contract or the farmer's disk has no room left",
    ErrorCode.PAYMENT_REQUIRED: "the farmer waits for a voucher before it serves more",
    ErrorCode.NOT_FUNDED: "the lane of this contract is not funded",
    ErrorCode.CONTRACT_OVER: "the contract has ended",
    ErrorCode.STALE: "the request names an older revision, voucher or epoch than the other side knows",
    ErrorCode.BUSY: "the other side has too much to do; try again later",
    ErrorCode.CORRUPT: "the farmer finds the shard damaged on its own disk",
    ErrorCode.LAPSED: "the proposal was not accepted in time",
    ErrorCode.NOT_YOURS: "the contract belongs to another renter",
    ErrorCode.CONFLICT: "this id is already taken by other content",
    ErrorCode.CANCELLED: "the request was withdrawn before it was answered",
    ErrorCode.NOT_ATTACHED: "the farmer is not attached to this relay",
}


def plain(text: str) -> str:
    """Words of another side as they may be shown and logged: one line, without commands to a terminal."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


class RequestFailed(StorjfsError):
    """The other side answered a request with a refusal: `code`, and its own words, made `plain`, in `detail`.

    A handler raises it to refuse; the connection stays usable. `code` is a plain int where the other side
    knows more codes than we do.
    """

    def __init__(self, code: ErrorCode | int, detail: str = "") -> None:
        try:
            self.code: ErrorCode | int = ErrorCode(code)
            text = TEXTS[ErrorCode(code)]
        except ValueError:
            self.code, text = int(code), f"unknown error {int(code)}"
        self.detail = plain(detail[:256])
        super().__init__(f"{text} ({self.detail})" if self.detail else text)
