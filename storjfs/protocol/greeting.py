"""Which version two sides speak: the highest that both know, and each can tell whether it is.

The hello travels inside TLS, so nobody in between can lower the range that one side offers. Against an answer
that names a lower version than it could, the answering side says its highest one too, and the dialling side
works the choice out again.
"""

from typing import Final

from storjfs.protocol.failures import ErrorCode, ProtocolViolation, RequestFailed
from storjfs.protocol.messages import Hello, HelloAnswer
from storjfs.protocol.terms import PROTOCOL_VERSION

LOWEST: Final = 1
"""The lowest version that is still spoken."""
HIGHEST: Final = PROTOCOL_VERSION


def choose_version(hello: Hello, lowest: int = LOWEST, highest: int = HIGHEST) -> int:
    """The highest version that the hello offers and this side speaks. Raises RequestFailed(UNSUPPORTED)."""
    version = min(hello.version_max, highest)
    if version < max(hello.version_min, lowest):
        spoken = f"version {highest}" if lowest == highest else f"versions {lowest} to {highest}"
        raise RequestFailed(ErrorCode.UNSUPPORTED, f"this side speaks protocol {spoken}")
    return version


def check_version(hello: Hello, answer: HelloAnswer) -> int:
    """The version of an answer to `hello`. Raises ProtocolViolation unless it is the highest both know."""
    if not hello.version_min <= answer.version <= hello.version_max:
        raise ProtocolViolation(f"the answer to the hello chooses version {answer.version}, not offered")
    if answer.version_max and answer.version != min(hello.version_max, answer.version_max):
        raise ProtocolViolation(
            f"the answer to the hello chooses version {answer.version} where both speak a higher one"
        )
    return answer.version
