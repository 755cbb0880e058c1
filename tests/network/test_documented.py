"""docs/formats/protocol.md names the limits that are in force."""

import re
import socket
from pathlib import Path

from storjfs.network.behind import WATCHFUL
from storjfs.network.control import CONTROL_LIMITS
from storjfs.network.dial_back import AT_ONCE, BURST, RATE
from storjfs.network.dialling import GONE, KEEP_ALIVE
from storjfs.network.frames import PATIENCE
from storjfs.network.guests import GUEST_LIMITS, SENDING_BYTES
from storjfs.network.relay import RELAY_LIMITS
from storjfs.network.streams import LIMITS
from storjfs.protocol.framing import MAX_DATA_FRAME, MAX_FRAME, MAX_HELLO, MAX_REQUEST

SPEC = (Path(__file__).parents[2] / "docs" / "formats" / "protocol.md").read_text()


def numbers(line: str) -> list[float]:
    """Those in the last cell of the row that begins with `line`."""
    row = re.search(rf"^\| {re.escape(line)}.*\| ([0-9., ]+) \|$", SPEC, re.MULTILINE)
    assert row, line
    return [float(word) for word in row[1].split(", ")]


def test_the_limits_of_a_listener_are_those_in_force() -> None:
    guest, control = GUEST_LIMITS, CONTROL_LIMITS
    expected: dict[str, list[float]] = {
        "connections, of one peer": [LIMITS.connections, LIMITS.per_peer, LIMITS.per_address],
        "connections whose peer": [
            LIMITS.handshakes,
            LIMITS.handshakes_per_address,
            LIMITS.handshakes_per_relay,
        ],
        "handshakes per second": [LIMITS.handshake_rate, LIMITS.handshake_burst],
        "seconds for a handshake": [LIMITS.handshake_timeout, PATIENCE.hello],
        f"seconds for a frame once it has begun, plus its bytes / {PATIENCE.slowest}": [PATIENCE.frame],
        f"seconds within a shard without a byte; in all, plus its bytes / {PATIENCE.slowest}": [
            PATIENCE.stall
        ],
        "seconds without a frame": [control.quiet, control.quiet, WATCHFUL.quiet, WATCHFUL.quiet],
        "seconds on a data connection": [PATIENCE.idle],
        "seconds without a packet": [
            KEEP_ALIVE[socket.TCP_KEEPIDLE],
            KEEP_ALIVE[socket.TCP_KEEPINTVL],
            GONE,
        ],
        "requests per second": [guest.requests, guest.request_burst],
        "puts and gets per second": [guest.transfers, guest.transfer_burst],
        "open requests": [control.requests_in],
        "of one peer worked on": [guest.answering],
        "bytes of requests": [guest.request_bytes],
        "bytes of answers": [control.waiting_bytes],
        "of a relay: farmers": [RELAY_LIMITS.farmers, RELAY_LIMITS.farmers_per_address],
        "relayed connections": [RELAY_LIMITS.streams, RELAY_LIMITS.streams_per_farmer],
        "callers that wait": [RELAY_LIMITS.calls_per_farmer, RELAY_LIMITS.calls_per_address],
        "calls per second": [
            RELAY_LIMITS.call_rate,
            RELAY_LIMITS.call_burst,
            RELAY_LIMITS.call_rate_per_address,
            RELAY_LIMITS.call_burst_per_address,
        ],
        "seconds for a called farmer": [RELAY_LIMITS.answer],
        "seconds without a byte on a relayed": [RELAY_LIMITS.idle, RELAY_LIMITS.linger],
        "questions to dial back": [RATE, BURST, AT_ONCE],
        "bytes of ranges": [guest.sending_bytes, SENDING_BYTES],
    }
    assert {line: numbers(line) for line in expected} == expected


def test_the_lengths_of_frames_are_those_in_force() -> None:
    expected: dict[str, list[float]] = {
        "the first of a connection": [MAX_HELLO],
        "any on a control connection, by a side that waits for an": [MAX_FRAME],
        "any on a control connection, by a side that waits for none": [MAX_REQUEST],
        "any on a data connection": [MAX_DATA_FRAME],
    }
    assert {line: numbers(line) for line in expected} == expected
