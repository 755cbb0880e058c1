"""One valid value of every kind that crosses the wire, and ways to spoil its bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, TypeVar

from hypothesis import strategies as st
from msgspec import Struct

from storjfs.protocol.audits import (
    AuditReply,
    AuditRequest,
    LeafProof,
    ShardChallenge,
    ShardProof,
    sign_reply,
    sign_request,
)
from storjfs.protocol.contracts import State
from storjfs.protocol.failures import ErrorCode
from storjfs.protocol.framing import encode_answer, encode_cancel, encode_failure, encode_request
from storjfs.protocol.ledger import (
    AskBalance,
    AskHistory,
    AskLane,
    AskLanes,
    Claim,
    CloseLane,
    Extend,
    LaneFacts,
    LedgerOrder,
    MovementFacts,
    OpenLane,
    Refund,
    Refusal,
    RefusalCode,
    Statement,
    TopUp,
    Transfer,
    Wanted,
    order_digest,
    sign_order,
    sign_statement,
)
from storjfs.protocol.messages import (
    METHODS,
    Arrive,
    Attach,
    AttachAnswer,
    Audit,
    AuditAnswer,
    Call,
    ContractAnswer,
    ContractList,
    Delete,
    DeleteAnswer,
    DialBack,
    DialBackAnswer,
    Done,
    End,
    FarmerList,
    FundNotice,
    Get,
    GetAnswer,
    GetContract,
    GetFarmers,
    GetOffer,
    HeldShard,
    Hello,
    HelloAnswer,
    ListContracts,
    ListShards,
    OfferAnswer,
    Pay,
    Ping,
    Propose,
    ProposeAnswer,
    Purpose,
    Put,
    PutAnswer,
    Reached,
    Request,
    Role,
    Settle,
    SettleAnswer,
    ShardList,
    Through,
    VoucherAnswer,
)
from storjfs.protocol.receipts import DeleteOrder, Receipt, sign_delete, sign_receipt
from storjfs.protocol.signing import Kind, Signed
from storjfs.protocol.terms import Contract, Offer, Proposal, Terms, sign_offer
from storjfs.protocol.vouchers import Tally, Voucher, sign_voucher
from tests.protocol import values

T = TypeVar("T")

SHARD, ROOT = values.shard_id(1), values.digest("root")
PROPOSAL = Proposal.make(values.RENTER, values.terms())
CONTRACT = PROPOSAL.countersign(values.FARMER)
ID = CONTRACT.contract_id
VOUCHER = Voucher(values.LANE, ID, 0, 1, 123_456_789)
RECEIPT = Receipt(ID, 0, SHARD, ROOT, 65552)
ORDER = DeleteOrder(ID, (SHARD, values.shard_id(2)))
CHALLENGE = AuditRequest(ID, 0, 1, bytes(range(32)), (ShardChallenge(SHARD, ROOT, 65552),))
REPLY = AuditReply(
    ID,
    1,
    bytes(range(32)),
    (ShardProof(SHARD, (LeafProof(b"leaf", bytes(64)),)), ShardProof(ROOT, ())),  # type: ignore[arg-type]
)
SIGNED_VOUCHER = sign_voucher(values.PAYER, VOUCHER)
WANTED: dict[str, Wanted] = {
    "open": OpenLane(values.PAYER.public, values.FARMER.public, 1000, 1_812_592_000),
    "top up": TopUp(values.LANE, 500),
    "extend": Extend(values.LANE, 1_820_000_000),
    "claim": Claim(SIGNED_VOUCHER),
    "close": CloseLane(values.LANE, SIGNED_VOUCHER),
    "refund": Refund(values.LANE),
    "transfer": Transfer(values.FARMER.public, 5, "thanks"),
    "balance": AskBalance(),
    "history": AskHistory(77, 10),
    "lane": AskLane(values.LANE),
    "lanes": AskLanes(256),
}
"""Everything that can be wanted of a ledger, by its tag."""
LEDGER_ORDERS = {
    tag: sign_order(values.PAYER, LedgerOrder(values.LEDGER.node_id, values.PAYER.public, b"order", wanted))
    for tag, wanted in WANTED.items()
}
STATEMENT = Statement(
    values.LEDGER.node_id,
    order_digest(LEDGER_ORDERS["open"]),
    1_800_000_001,
    42,
    ROOT,
    9000,
    None,
    (
        LaneFacts(
            *(values.LANE, values.PAYER.public, values.FARMER.public, values.PAYER.public),
            *(1000, 0, 1_812_592_000, "open"),
        ),
    ),
    (MovementFacts(42, 1_800_000_000, "open", -1000, values.LANE, ""),),
)
REFUSED = Statement(
    values.LEDGER.node_id,
    order_digest(LEDGER_ORDERS["top up"]),
    1_800_000_001,
    42,
    ROOT,
    9000,
    Refusal(RefusalCode.LANE_CLOSED, "the lane is closed"),
)

SIGNED: dict[str, tuple[Signed, bytes, Kind, type[Struct]]] = {
    "offer": (sign_offer(values.FARMER, values.offer()), values.FARMER.public, Kind.OFFER, Offer),
    "voucher": (SIGNED_VOUCHER, values.PAYER.public, Kind.VOUCHER, Voucher),
    "receipt": (sign_receipt(values.FARMER, RECEIPT), values.FARMER.public, Kind.RECEIPT, Receipt),
    "delete": (sign_delete(values.RENTER, ORDER), values.RENTER.public, Kind.DELETE, DeleteOrder),
    "request": (
        sign_request(values.RENTER, CHALLENGE),
        values.RENTER.public,
        Kind.AUDIT_REQUEST,
        AuditRequest,
    ),
    "reply": (sign_reply(values.FARMER, REPLY), values.FARMER.public, Kind.AUDIT_REPLY, AuditReply),
    "ledger order": (LEDGER_ORDERS["open"], values.PAYER.public, Kind.LEDGER_ORDER, LedgerOrder),
    "ledger statement": (
        sign_statement(values.LEDGER, STATEMENT),
        values.LEDGER.public,
        Kind.LEDGER_STATEMENT,
        Statement,
    ),
}
"""Signed values with their signers."""

REQUESTS: list[Request[Any]] = [
    Hello(Purpose.CONTROL, Role.RENTER, capabilities=("cancel",), vouchers=(SIGNED_VOUCHER,)),
    Hello(Purpose.DATA, Role.RENTER),
    Ping(),
    GetOffer(),
    Propose(PROPOSAL),
    FundNotice(ID, values.LANE, 5),
    GetContract(ID),
    Audit(SIGNED["request"][0], SIGNED_VOUCHER),
    Pay(SIGNED_VOUCHER),
    Delete(SIGNED["delete"][0]),
    End(ID, "moving house"),
    ListContracts(ID),
    ListShards(ID, SHARD, 3),
    GetFarmers(5, SIGNED["offer"][0]),
    Put(ID, SHARD, 200),
    Get(ID, SHARD, 0, 100),
    Attach(),
    Call(bytes(range(32))),
    Through(values.FARMER.node_id),
    Arrive(bytes(range(32))),
    DialBack(7420),
    Settle(LEDGER_ORDERS["open"]),
]
ANSWERS: list[Struct] = [
    HelloAnswer(1, Role.FARMER, ("cancel",), "software", (SIGNED_VOUCHER,), 1),
    Done(),
    OfferAnswer(SIGNED["offer"][0]),
    ProposeAnswer(CONTRACT),
    ProposeAnswer(None, values.terms(), "dearer"),
    ContractAnswer(CONTRACT, State.ACTIVE, 3, 200_000, 1, True, SIGNED_VOUCHER),
    ContractList((ID,)),
    ShardList((HeldShard(SHARD, ROOT, 65552),)),
    FarmerList((SIGNED["offer"][0],)),
    AuditAnswer(SIGNED["reply"][0], SIGNED_VOUCHER, (values.shard_id(3),)),
    VoucherAnswer(SIGNED_VOUCHER),
    DeleteAnswer(2),
    PutAnswer(SIGNED["receipt"][0]),
    GetAnswer(100),
    AttachAnswer(64, "198.51.100.7"),
    DialBackAnswer(Reached.SILENT, "198.51.100.7"),
    SettleAnswer(SIGNED["ledger statement"][0]),
]
VALUES: list[Struct] = [
    *REQUESTS,
    *ANSWERS,
    values.offer(),
    values.terms(),
    PROPOSAL,
    CONTRACT,
    VOUCHER,
    Tally(5, 6),
    RECEIPT,
    ORDER,
    CHALLENGE,
    REPLY,
    *(one.peek(LedgerOrder) for one in LEDGER_ORDERS.values()),
    STATEMENT,
    REFUSED,
    *(signed for signed, *_ in SIGNED.values()),
]
"""At least one of every type that is decoded from a stranger's bytes."""
FRAMES: list[bytes] = [
    *(encode_request(number, request) for number, request in enumerate(REQUESTS)),
    *(encode_answer(number, answer) for number, answer in enumerate(ANSWERS)),
    encode_failure(0, ErrorCode.NO_SPACE, "full"),
    encode_failure(0, 4711),
    encode_cancel(0),
    encode_cancel(3),
]

assert {type(value) for value in VALUES} >= {*METHODS, *(answer for _, answer in METHODS.values())}
assert {type(value) for value in VALUES} >= {Offer, Terms, Proposal, Contract, Voucher, Receipt, DeleteOrder}

OPCODES = bytes([0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, *range(0xC0, 0xE0), 0x00, 0x7F, 0xFF])
"""First bytes of MessagePack values of every kind."""


def _flip(data: bytearray, at: int, value: int) -> None:
    data[at] ^= 1 << value % 8


def _set(data: bytearray, at: int, value: int) -> None:
    data[at] = value


def _opcode(data: bytearray, at: int, value: int) -> None:
    data[at] = OPCODES[value % len(OPCODES)]


def _insert(data: bytearray, at: int, value: int) -> None:
    data[at:at] = bytes([value]) * (1 + value % 7)


def _delete(data: bytearray, at: int, value: int) -> None:
    del data[at : at + 1 + value % 64]


def _double(data: bytearray, at: int, value: int) -> None:
    data[at:at] = data[at : at + 1 + value]


def _cut(data: bytearray, at: int, value: int) -> None:
    del data[at:]


SPOILERS: list[Callable[[bytearray, int, int], None]] = [
    _flip,
    _set,
    _opcode,
    _insert,
    _delete,
    _double,
    _cut,
]


def spoil(data: bytes, how: bytes) -> bytes:
    """`data` with one change for each four bytes of `how`: what, where (twice), with which value."""
    spoilt = bytearray(data)
    for start in range(0, len(how) - 3, 4):
        if not spoilt:
            break
        at = int.from_bytes(how[start + 1 : start + 3], "big") % len(spoilt)
        SPOILERS[how[start] % len(SPOILERS)](spoilt, at, how[start + 3])
    return bytes(spoilt)


@dataclass(frozen=True, slots=True)
class Input(Generic[T]):
    """A part of an input: for Hypothesis, which makes it small where it breaks something, and from a plain
    source of randomness, which is several times as fast."""

    strategy: st.SearchStrategy[T]
    draw: Callable[[Random], T]


def numbers(low: int, high: int) -> Input[int]:
    return Input(st.integers(low, high), lambda source: source.randint(low, high))


def some_bytes(most: int) -> Input[bytes]:
    return Input(st.binary(max_size=most), lambda source: source.randbytes(source.randint(0, most)))


def lists_of_numbers(most: int) -> Input[list[int]]:
    return Input(
        st.lists(st.integers(0, 10_000), max_size=most),
        lambda source: [source.randint(0, 10_000) for _ in range(source.randint(0, most))],
    )


NUMBER = numbers(0, 10_000)
EITHER = Input(st.booleans(), lambda source: source.random() < 0.5)
CHANGES = some_bytes(16)
"""For `spoil`: none to four changes."""
