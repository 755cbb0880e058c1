"""What a client believes of the answers of a ledger, and what becomes of those that are none."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from storjfs.ledger import ServedLedger
from storjfs.network.failures import RequestTimeout
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.ids import Digest, LaneId, NodeId
from storjfs.protocol.ledger import (
    LaneFacts,
    LedgerOrder,
    Refusal,
    RefusalCode,
    Statement,
    open_order,
    order_digest,
    sign_statement,
)
from storjfs.protocol.messages import Settle, SettleAnswer
from storjfs.protocol.signing import Kind, Signed, SigningKey
from storjfs.protocol.terms import Address
from storjfs.settlement import (
    InsufficientBalance,
    PlaceError,
    ServedAt,
    SettlementError,
    SettlementFull,
    SettlementUnreachable,
    parse_place,
)
from tests.farmer.process import Running

NODE, OTHER, OWN = (SigningKey(letter * 32) for letter in (b"n", b"x", b"a"))
AT = ServedAt(NODE.node_id, Address("ledger.example.org", 7430))
Answer = Callable[[Signed, Statement], tuple[SigningKey, Statement]]


def honestly(order: Signed, statement: Statement) -> tuple[SigningKey, Statement]:
    return NODE, statement


@dataclass
class FakeLine:
    """A ledger that answers what the test wants."""

    answer: Answer = honestly
    error: Exception | None = None
    asked: list[LedgerOrder] = field(default_factory=list)
    number: int = 7
    head: bytes = b"h" * 32

    def ask(self, request: Settle) -> SettleAnswer:
        self.asked.append(open_order(request.order, NODE.node_id))
        if self.error is not None:
            raise self.error
        digest = order_digest(request.order)
        statement = Statement(NODE.node_id, digest, 0, self.number, Digest(self.head), 55)
        key, statement = self.answer(request.order, statement)
        return SettleAnswer(sign_statement(key, statement))

    def close(self) -> None:
        return


def client(line: FakeLine, memory: Path | None = None) -> ServedLedger:
    made = ServedLedger(AT, OWN, memory, clock=lambda: 0.0)
    made._line = line  # type: ignore[assignment]
    return made


def test_an_order_names_ledger_account_and_something_random() -> None:
    line = FakeLine()
    ledger = client(line)
    for _ in range(2):
        assert ledger.balance(OWN.public) == 55
    first, second = line.asked
    assert (first.ledger, first.account) == (NODE.node_id, OWN.public)
    assert first.order != second.order


def test_a_statement_of_somebody_else_is_not_believed() -> None:
    with pytest.raises(SettlementError, match="bad signature"):
        client(FakeLine(lambda order, statement: (OTHER, statement))).balance(OWN.public)


def test_an_old_answer_fits_no_new_question() -> None:
    kept: list[Statement] = []

    def always_the_first(order: Signed, statement: Statement) -> tuple[SigningKey, Statement]:
        kept.append(statement)
        return NODE, kept[0]

    ledger = client(FakeLine(always_the_first))
    ledger.balance(OWN.public)
    with pytest.raises(SettlementError, match="answers something else"):
        ledger.balance(OWN.public)


@pytest.mark.parametrize(("number", "head"), [(6, b"h" * 32), (7, b"i" * 32)])
def test_one_that_tells_another_story_is_noticed(number: int, head: bytes) -> None:
    line = FakeLine()
    ledger = client(line)
    ledger.balance(OWN.public)
    ledger.balance(OWN.public)
    line.number, line.head = number, head
    with pytest.raises(SettlementError, match="has been set back"):
        ledger.balance(OWN.public)


def test_what_it_said_before_a_start_counts_and_both_statements_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "statement"
    line = FakeLine()
    ledger = client(line, file)
    ledger.balance(OWN.public)
    line.number = 9
    ledger.balance(OWN.public)
    ledger.close_file()
    line.number = 8
    ledger = client(line, file)
    with pytest.raises(SettlementError, match="was at transfer 9 before, now it is at 8"):
        ledger.balance(OWN.public)
    said = [
        Signed.from_bytes(one.read_bytes()).open(NODE.public, Kind.LEDGER_STATEMENT, Statement)
        for one in (file, tmp_path / "statement-other")
    ]
    assert [one.number for one in said] == [9, 8]
    file.unlink()
    assert client(line, file).balance(OWN.public) == 55


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_file_that_is_no_statement_of_the_ledger_counts_for_nothing(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "statement"
    statement = Statement(OTHER.node_id, Digest(bytes(32)), 0, 99, Digest(bytes(32)), 0)
    file.write_bytes(sign_statement(OTHER, statement).to_bytes() if content is None else content)
    assert client(FakeLine(), file).balance(OWN.public) == 55


def test_a_lane_in_a_state_that_does_not_exist_is_an_error_like_others() -> None:
    lane = LaneFacts(LaneId(bytes(32)), OWN.public, OTHER.public, None, 1, 0, 0, "ope")

    def answer(order: Signed, statement: Statement) -> tuple[SigningKey, Statement]:
        return NODE, msgspec.structs.replace(statement, lanes=(lane,))

    with pytest.raises(SettlementError, match="not a valid Statement"):
        client(FakeLine(answer)).lane(LaneId(bytes(32)))


def test_what_a_ledger_says_commands_no_terminal() -> None:
    refusal = Refusal(RefusalCode.BALANCE, "no\x1b[2J money")

    def answer(order: Signed, statement: Statement) -> tuple[SigningKey, Statement]:
        return NODE, msgspec.structs.replace(statement, refused=refusal)

    with pytest.raises(InsufficientBalance) as caught:
        client(FakeLine(answer)).transfer(OWN.public, OTHER.public, 1)
    assert str(caught.value).isprintable()


def test_one_that_has_gone_on_is_believed() -> None:
    line = FakeLine()
    ledger = client(line)
    ledger.balance(OWN.public)
    line.number, line.head = 8, b"i" * 32
    assert ledger.balance(OWN.public) == 55


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RequestTimeout("late"), SettlementUnreachable),
        (RequestFailed(ErrorCode.BUSY), SettlementUnreachable),
        (RequestFailed(ErrorCode.INTERNAL), SettlementError),
        (RequestFailed(ErrorCode.NO_SPACE), SettlementFull),
        (RequestFailed(ErrorCode.UNSUPPORTED), SettlementError),
        (RequestFailed(ErrorCode.BAD_REQUEST), SettlementError),
    ],
)
def test_what_a_failure_means(error: Exception, kind: type[SettlementError]) -> None:
    line = FakeLine(error=error)
    ledger = client(line)
    with pytest.raises(SettlementError) as caught:
        ledger.balance(OWN.public)
    assert type(caught.value) is kind
    with pytest.raises(SettlementError):
        ledger.balance(OWN.public)
    # After no answer it is left alone for a while.
    assert len(line.asked) == (1 if kind is SettlementUnreachable else 2)


def test_a_farmer_is_no_ledger(tmp_path: Path) -> None:
    with Running("--at", str(tmp_path / "farm"), "--share", "10MiB", "--listen", "local") as farmer:
        node_id, address = farmer.where()
        ledger = ServedLedger(ServedAt(node_id, address), OWN)
        with pytest.raises(SettlementError, match="no ledger answers there"):
            ledger.balance(OWN.public)
        ledger.close_file()
        assert farmer.interrupt() == 0


def test_a_line_that_was_closed_or_never_used() -> None:
    ledger = ServedLedger(AT, OWN)
    ledger.close_file()
    ledger.close_file()
    with pytest.raises(SettlementUnreachable, match="closed"):
        ledger.balance(OWN.public)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("ab" * 32 + "@host:1", ServedAt(NodeId(b"\xab" * 32), Address("host", 1))),
        ("AB" * 32 + "@host", ServedAt(NodeId(b"\xab" * 32), Address("host", 7430))),
        ("ab" * 32 + "@[::1]", ServedAt(NodeId(b"\xab" * 32), Address("::1", 7430))),
        ("ab" * 32 + "@[::1]:5", ServedAt(NodeId(b"\xab" * 32), Address("::1", 5))),
        ("/somewhere/ledger.db", Path("/somewhere/ledger.db")),
        ("/odd@name/ledger.db", Path("/odd@name/ledger.db")),
    ],
)
def test_how_a_ledger_is_named(text: str, place: object) -> None:
    assert parse_place(text) == place
    assert parse_place(str(place)) == place


@pytest.mark.parametrize("text", ["", "ab" * 31 + "@host:1", "ab" * 32 + "@host:0", "ab" * 32 + "@host:x"])
def test_what_names_no_ledger(text: str) -> None:
    with pytest.raises(PlaceError):
        parse_place(text)
