"""A renter as small as it can be, over real connections: what the farmer's tests talk with."""

import contextlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from storjfs.coding import merkle
from storjfs.farmer.farmer import Farmer
from storjfs.farmer.settings import FarmerSettings
from storjfs.network.identity import Identity
from storjfs.network.peer import Peer
from storjfs.protocol import audits
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.protocol.ids import ContractId, Digest, LaneId, NodeId, ShardId, lane_id
from storjfs.protocol.messages import (
    Audit,
    AuditAnswer,
    ContractAnswer,
    Delete,
    FundNotice,
    GetContract,
    GetOffer,
    Pay,
    Propose,
    ProposeAnswer,
)
from storjfs.protocol.receipts import DeleteOrder, Receipt, open_receipt, sign_delete
from storjfs.protocol.signing import Signed, SigningKey
from storjfs.protocol.terms import CREDIT, Address, Contract, Offer, Proposal, Terms, open_offer
from storjfs.protocol.vouchers import Tally, Voucher, sign_voucher
from storjfs.settlement import Ledger

MIB = 1 << 20
WITHOUT_DISKS = (
    "DROP TABLE disk; DROP INDEX shard_elsewhere; ALTER TABLE shard DROP COLUMN disk; DROP TABLE doomed; "
    "CREATE TABLE doomed (shard_id BLOB NOT NULL PRIMARY KEY) WITHOUT ROWID; "
)
"""Makes a farmer.db one of version 4, but for its number."""


def settings(folder: Path, **changes: Any) -> FarmerSettings:
    """Those of a farmer whose prices make one audit of a MiB worth about a credit."""
    values: dict[str, Any] = {
        "capacity": 64 * MIB,
        "ledger": folder / "ledger.db",
        "price": 1_000_000 * CREDIT,
        "egress_price": CREDIT,
        "term_min": 1,
        "period_min": 1,
        **changes,
    }
    return FarmerSettings(**values)


@dataclass
class Shard:
    """A shard that the renter put."""

    shard_id: ShardId
    data: bytes
    receipt: Receipt

    @property
    def challenge(self) -> audits.ShardChallenge:
        return audits.ShardChallenge(self.shard_id, self.receipt.root, self.receipt.length)


@dataclass
class Renter:
    """One renter of one farmer."""

    ledger: Ledger
    peer: Peer
    key: SigningKey
    payer: SigningKey
    offer: Offer | None = None
    contract: Contract | None = None
    tally: Tally = field(default_factory=Tally)
    counter: int = 0
    epoch: int = 0
    voucher: Signed | None = None
    shards: list[Shard] = field(default_factory=list)

    @property
    def farmer(self) -> NodeId:
        return self.peer.node_id

    @property
    def lane(self) -> LaneId:
        assert self.offer is not None
        return lane_id(self.ledger.name, self.payer.public, self.offer.payee)

    @property
    def contract_id(self) -> ContractId:
        assert self.contract is not None
        return self.contract.contract_id

    @property
    def terms(self) -> Terms:
        assert self.contract is not None
        return self.contract.terms()

    # --- contracts ---

    async def ask_offer(self) -> Offer:
        self.offer = open_offer((await self.peer.request(GetOffer())).offer)
        return self.offer

    async def draft(self, **changes: Any) -> Terms:
        """Terms as the farmer offers them, for 16 MiB and an hour, audited every minute."""
        offer = await self.ask_offer()
        now = int(time.time())
        values: dict[str, Any] = {
            "farmer": offer.farmer,
            "renter": self.key.node_id,
            "payer": self.payer.public,
            "payee": offer.payee,
            "settlement": offer.settlement,
            "lane": self.lane,
            "capacity": 16 * MIB,
            "price": offer.price,
            "egress_price": offer.egress_price,
            "start": now,
            "end": now + 3600,
            "audit_period": 3600,
            "samples": 4,
            "answer_deadline": 60,
            "payment_grace": 600,
            "offline_grace": 600,
            "end_grace": 600,
            "accept_by": now + 60,
            **changes,
        }
        return Terms(**values)

    async def propose(self, terms: Terms) -> ProposeAnswer:
        answer = await self.peer.request(Propose(Proposal.make(self.key, terms)))
        if answer.contract is not None:
            answer.contract.open()
            self.contract = answer.contract
        return answer

    def fund(self, deposit: int, expiry: int | None = None) -> None:
        self.ledger.issue(self.payer.public, deposit)
        self.ledger.open_lane(self.payer.public, self.terms.payee, deposit, expiry or self.terms.end + 1000)

    async def notify(self) -> ContractAnswer:
        return await self.peer.request(FundNotice(self.contract_id, self.lane, 0))

    async def agree(self, deposit: int = 1000 * CREDIT, **changes: Any) -> ContractAnswer:
        """From nothing to an active contract."""
        answer = await self.propose(await self.draft(**changes))
        assert answer.contract is not None, answer.reason
        self.fund(deposit)
        return await self.notify()

    async def look(self) -> ContractAnswer:
        return await self.peer.request(GetContract(self.contract_id))

    # --- shards ---

    async def put(self, data: bytes | int = MIB, shard_id: ShardId | None = None) -> Shard:
        data = os.urandom(data) if isinstance(data, int) else data
        shard_id = shard_id or ShardId(os.urandom(32))
        signed = await self.peer.put_shard(self.contract_id, shard_id, data)
        root = Digest(merkle.shard_root(data))
        expected = Receipt(self.contract_id, 0, shard_id, root, len(data))
        shard = Shard(shard_id, data, open_receipt(signed, self.farmer, expected))
        self.shards.append(shard)
        return shard

    async def get(self, shard: Shard, offset: int = 0, length: int | None = None) -> bytes:
        buffer = bytearray(len(shard.data) - offset if length is None else length)
        await self.peer.get_range(self.contract_id, shard.shard_id, offset, buffer)
        return bytes(buffer)

    async def delete(self, *shards: Shard) -> int:
        order = DeleteOrder(self.contract_id, tuple(shard.shard_id for shard in shards))
        return (await self.peer.request(Delete(sign_delete(self.key, order)))).deleted

    # --- audits and pay ---

    def challenge(self, *shards: Shard) -> Signed:
        self.epoch += 1
        request = audits.AuditRequest(
            self.contract_id,
            self.terms.revision,
            self.epoch,
            os.urandom(32),
            tuple(shard.challenge for shard in shards or self.shards),
        )
        return audits.sign_request(self.key, request)

    async def ask(self, challenge: Signed, voucher: Signed | None = None) -> AuditAnswer:
        return await self.peer.request(Audit(challenge, voucher))

    def judge(self, challenge: Signed, answer: AuditAnswer) -> list[audits.Verdict]:
        """The verdicts; what passed is owed from now on."""
        request = challenge.peek(audits.AuditRequest)
        reply = audits.open_reply(answer.reply, self.farmer)
        verdicts = audits.judge(self.terms, request, reply, merkle.sample_indices, merkle.verify)
        lengths = {shard.shard_id: shard.length for shard in request.shards}
        passed = sum(lengths[verdict.shard_id] for verdict in verdicts if verdict.passed)
        self.tally = self.tally.with_proofs(self.terms, passed)
        return verdicts

    async def audit(self, *shards: Shard) -> list[audits.Verdict]:
        challenge = self.challenge(*shards)
        return self.judge(challenge, await self.ask(challenge))

    def sign(self, amount: int | None = None) -> Signed:
        self.counter += 1
        amount = self.tally.amount if amount is None else amount
        voucher = Voucher(self.lane, self.contract_id, self.terms.revision, self.counter, amount)
        self.voucher = sign_voucher(self.payer, voucher)
        return self.voucher

    async def pay(self, amount: int | None = None) -> Signed:
        return (await self.peer.request(Pay(self.sign(amount)))).voucher

    async def pay_or_not(self) -> None:
        """Pay, whether the farmer can record it or not."""
        with contextlib.suppress(RequestFailed):
            await self.pay()


def refused(code: ErrorCode) -> Any:
    """The context in which the farmer answers with this error."""
    return pytest.raises(RequestFailed, check=lambda error: error.code == code)


def address_of(text: str) -> Address:
    return Address.parse(text)


@asynccontextmanager
async def renting(
    ledger: Ledger, farmer: NodeId, address: Address, seed: bytes | None = None
) -> AsyncIterator[Renter]:
    """A renter connected to a farmer."""
    seed = seed or os.urandom(32)
    peer = Peer(Identity(seed), farmer, [address])
    payer = SigningKey(bytes(reversed(seed)))
    async with trio.open_nursery() as nursery:
        await nursery.start(peer.run)
        yield Renter(ledger, peer, SigningKey(seed), payer)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def farming(folder: Path, **changes: Any) -> AsyncIterator[Farmer]:
    """A farmer that serves on loopback."""
    with_clock = {name: changes.pop(name) for name in ("clock", "disk") if name in changes}
    farmer = Farmer.open(folder / "farmer", settings(folder, **changes), **with_clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(farmer.serve)
        yield farmer
        nursery.cancel_scope.cancel()
