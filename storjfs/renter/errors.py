"""What can go wrong between this renter and a farmer, and what a person can do about it."""

from storjfs.errors import StorjfsError


class RenterError(StorjfsError):
    """Base of this room's errors."""


class FarmerUnavailable(RenterError):
    """No answer: the farmer or the way to it is down. Nothing is known about the shard."""

    def __init__(self, message: str = "the farmer cannot be reached") -> None:
        super().__init__(message, hint="Its shards are read from others; if it stays away they are rebuilt.")


class ShardMissing(RenterError):
    """The farmer says, in so many words, that it does not have the shard."""

    def __init__(self, message: str = "the farmer no longer has the shard") -> None:
        super().__init__(message, hint="It is read from others and rebuilt on another farmer.")


class ShardCorrupt(ShardMissing):
    """The farmer has the shard, and says that it found it damaged."""


class ServiceRefused(RenterError):
    """The farmer answers but will not serve; `code` is the protocol's word for why."""

    def __init__(self, code: str, message: str = "", *, hint: str = "") -> None:
        super().__init__(message or f"the farmer refuses service: {code}", hint=hint)
        self.code = code


class AnswerSenseless(RenterError):
    """The farmer's answer contradicts the question or itself; nothing follows from it."""


class ReceiptInvalid(RenterError):
    """The farmer's receipt does not say what was sent; the shard does not count as stored."""


class TermsRefused(RenterError):
    """No contract: the offer is outside the bounds set, or the farmer would not sign."""


class OtherTerms(TermsRefused):
    """The farmer would sign other terms than these: its newest offer may suit."""


class LaneFrozen(RenterError):
    """Nothing may be signed on this lane until the highest voucher ever signed is known."""


class DepositExhausted(RenterError):
    """The deposit would not cover the voucher; topping up failed or would break the budget."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="Add money to your balance, or raise the budget in the settings.")
