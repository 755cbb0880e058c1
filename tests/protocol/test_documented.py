"""docs/formats/protocol.md says what the code does."""

import re
from pathlib import Path

from msgspec import Struct

from storjfs.protocol.audits import AuditReply, AuditRequest
from storjfs.protocol.contracts import TRANSITIONS
from storjfs.protocol.failures import ErrorCode
from storjfs.protocol.ledger import LedgerOrder, Statement
from storjfs.protocol.messages import METHODS
from storjfs.protocol.receipts import DeleteOrder, Receipt
from storjfs.protocol.signing import Kind
from storjfs.protocol.terms import Offer, Terms
from storjfs.protocol.vouchers import Voucher

SPEC = (Path(__file__).parents[2] / "docs" / "formats" / "protocol.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table after a heading, without its head."""
    section = SPEC.split(f" {heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


def test_every_transition_is_there() -> None:
    written = {
        (state, *step.split(" -> ")) for state, steps in rows("Contracts") for step in steps.split(", ")
    }
    assert written == {(state.value, event.value, to.value) for (state, event), to in TRANSITIONS.items()}


def test_every_failure_is_there() -> None:
    assert [(int(code), name) for code, name, _ in rows("Failures")] == [
        (code.value, code.name) for code in ErrorCode
    ]


def test_every_method_is_there() -> None:
    numbers = [int(row[0]) for row in rows("Requests")]
    assert numbers == sorted(number for number, _ in METHODS.values())


def test_every_domain_is_there() -> None:
    for kind in Kind:
        assert f"`{kind.value[:-1].decode()}\\0`" in SPEC


def test_the_fields_of_signed_values_are_there() -> None:
    described: dict[str, type[Struct]] = {
        "Offer": Offer,
        "Terms": Terms,
        "Receipt": Receipt,
        "Delete order": DeleteOrder,
        "Voucher": Voucher,
        "Audit request": AuditRequest,
        "Audit reply": AuditReply,
        "Ledger order": LedgerOrder,
        "Statement": Statement,
    }
    for name, wanted in described.items():
        text = re.search(rf"\*\*{name}\*\*: ([^.]*)\.", SPEC)
        assert text
        fields = re.sub(r"\[.*?\]+", "", text[1], flags=re.DOTALL).replace("\n", " ").split(",")
        assert tuple(field.strip() for field in fields) == wanted.__struct_fields__
