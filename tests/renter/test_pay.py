"""Pay: never above the deposit, never lower than before, on disk before it is sent, each batch once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storjfs.protocol.signing import Signed, SigningKey
from storjfs.protocol.terms import Proposal
from storjfs.protocol.vouchers import PARTS, Voucher, may_follow, open_voucher, sign_voucher
from storjfs.renter.errors import LaneFrozen
from storjfs.renter.pay import Lane, PayBook
from tests.renter.values import FARMER, KEYS, contract, terms

TERMS = terms()
CONTRACT_ID = contract().contract_id
LANE = TERMS.lane
PAYER = SigningKey(KEYS.payment_identity(FARMER.node_id))
KEY = b"k" * 32
SHARD = 4 << 20


class Crash(BaseException):
    """As if the process had been killed here."""


class Life:
    """Opens pay.db again and again, as restarts do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.book: PayBook | None = None

    def start(self, crash_point: Callable[[str], None] = lambda name: None) -> PayBook:
        if self.book is not None:
            self.book.close()
        self.book = PayBook(self.path, KEY, KEYS.payment_identity, crash_point)
        return self.book


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    one = Life(tmp_path / "pay.db")
    yield one
    if one.book is not None:
        one.book.close()


async def lane_of(book: PayBook, deposit: int = 10**9, *, used_before: bool = False) -> Lane:
    return await book.know_lane(LANE, FARMER.node_id, deposit, TERMS.end, used_before=used_before)


def opened(voucher: Signed) -> Voucher:
    return open_voucher(voucher, PAYER.public, LANE)


async def test_a_batch_adds_exactly_the_price_of_its_passed_proofs(life: Life) -> None:
    book = life.start()
    lane = await lane_of(book)
    for number in range(3):
        await book.settle(lane, TERMS, CONTRACT_ID, bytes([number]) * 32, SHARD)
    parts = 3 * SHARD * TERMS.price * TERMS.audit_period
    assert (lane.tally.amount, lane.tally.carry) == divmod(parts, PARTS)
    assert lane.voucher is not None
    newest = opened(lane.voucher)
    assert (newest.amount, newest.counter, newest.contract_id) == (parts // PARTS, 3, CONTRACT_ID)


async def test_the_same_batch_is_paid_once_however_often_it_is_settled(life: Life) -> None:
    lane = await lane_of(book := life.start())
    first = await book.settle(lane, TERMS, CONTRACT_ID, b"n" * 32, SHARD)
    assert await book.settle(lane, TERMS, CONTRACT_ID, b"n" * 32, SHARD) == first
    book = life.start()
    assert await book.settle(book.lanes[LANE], TERMS, CONTRACT_ID, b"n" * 32, SHARD) == first


async def test_egress_is_added_to_the_next_voucher_once(life: Life) -> None:
    lane = await lane_of(book := life.start())
    book.received(lane, 1 << 30)
    one = opened(await book.settle(lane, TERMS, CONTRACT_ID, None, 0))
    two = opened(await book.settle(lane, TERMS, CONTRACT_ID, None, 0))
    assert one.amount == two.amount == TERMS.egress_price
    assert may_follow(one, two)


async def test_the_deposit_is_the_end_of_every_promise_and_a_top_up_pays_the_rest(life: Life) -> None:
    lane = await lane_of(book := life.start(), deposit=1000)
    assert opened(await book.settle(lane, TERMS, CONTRACT_ID, b"n" * 32, SHARD)).amount == 1000
    owed = lane.tally.amount
    assert owed > 1000
    await lane_of(book, deposit=10**9)
    assert opened(await book.settle(lane, TERMS, CONTRACT_ID, None, 0)).amount == owed


async def test_a_lane_with_a_forgotten_past_is_frozen_until_its_highest_voucher_is_known(life: Life) -> None:
    lane = await lane_of(book := life.start(), used_before=True)
    with pytest.raises(LaneFrozen):
        await book.settle(lane, TERMS, CONTRACT_ID, b"n" * 32, SHARD)
    earlier = sign_voucher(PAYER, Voucher(LANE, CONTRACT_ID, 0, 77, 5_000))
    await book.adopt(lane, earlier)
    after = opened(await book.settle(lane, TERMS, CONTRACT_ID, b"n" * 32, SHARD))
    assert after.counter == 78
    assert after.amount > 5_000


async def test_a_shown_voucher_that_somebody_else_signed_is_refused(life: Life) -> None:
    lane = await lane_of(book := life.start(), used_before=True)
    forged = sign_voucher(SigningKey(b"x" * 32), Voucher(LANE, CONTRACT_ID, 0, 99, 10**9))
    with pytest.raises(Exception, match="signature"):
        await book.adopt(lane, forged)
    assert lane.frozen


async def test_proposals_and_revisions_come_back_as_they_were_stored(life: Life) -> None:
    book = life.start()
    proposal = Proposal.make(SigningKey(KEYS.renter_identity(FARMER.node_id)), TERMS)
    await book.keep_proposal(FARMER.node_id, proposal)
    await book.keep_revision(CONTRACT_ID, 0, b"first")
    book = life.start()
    assert book.proposals == {FARMER.node_id: proposal}
    assert book.revisions(CONTRACT_ID) == [b"first"]
    await book.drop_proposal(FARMER.node_id)
    assert life.start().proposals == {}


class Chaos:
    """Raises Crash at the n-th crash point, counted down."""

    def __init__(self) -> None:
        self.countdown = -1

    def __call__(self, name: str) -> None:
        self.countdown -= 1
        if self.countdown == 0:
            raise Crash(name)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("batch"), st.integers(0, 3)),
        st.tuples(st.just("egress"), st.integers(0, 1 << 30)),
        st.tuples(st.just("top up"), st.integers(1, 10**8)),
        st.tuples(st.just("crash at"), st.integers(1, 3)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=30,
)


@given(steps)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_order_of_events_and_crashes_breaks_the_rules(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[str, int]]
) -> None:
    chaos = Chaos()
    life = Life(tmp_path_factory.mktemp("pay") / "pay.db")
    book = life.start(chaos)
    deposit, proofs = 10**6, 0
    lane = await lane_of(book, deposit)
    sent: Voucher | None = None
    for number, (what, value) in enumerate(plan):
        nonce = number.to_bytes(32, "big")
        try:
            if what == "batch":
                proofs += value * SHARD
                shown = opened(await book.settle(lane, TERMS, CONTRACT_ID, nonce, value * SHARD))
            elif what == "egress":
                book.received(lane, value)
                continue
            elif what == "top up":
                deposit += value
                await lane_of(book, deposit)
                continue
            elif what == "crash at":
                chaos.countdown = value
                continue
            else:
                book = life.start(chaos)
                lane = book.lanes[LANE]
                continue
        except Crash:
            chaos.countdown = -1
            book = life.start(chaos)
            lane = book.lanes[LANE]
            # The auditor repeats the batch byte for byte, and it counts once.
            shown = opened(await book.settle(lane, TERMS, CONTRACT_ID, nonce, value * SHARD))
        assert shown.amount <= deposit
        assert may_follow(sent, shown)
        sent = shown
        whole, _ = divmod(proofs * TERMS.price * TERMS.audit_period, PARTS)
        assert lane.tally.amount >= whole
        assert shown.amount == min(lane.tally.amount, deposit)
    assert life.book is not None
    life.book.close()
