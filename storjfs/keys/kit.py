"""The recovery kit: a page of text to print, which brings the keys of a volume back."""

from collections.abc import Sequence

_WORDS_PER_LINE = 4
PHRASE_IS_NOT_ENOUGH = (
    "The phrase alone does not bring files back yet: they need the volume's metadata\n"
    "too (docs/how-to/back-up-metadata.md)."
)
"""What whoever sees the phrase is told; two lines."""


def recovery_kit(
    phrase: str, *, volume: str, volume_id: bytes, made: str, farmers: Sequence[str] = (), ledger: str = ""
) -> str:
    """The text of a recovery kit. `phrase_to_entropy` reads it back, so it can serve as a phrase file.

    `made` is the day as text; `farmers` are addresses (host:port) of farmers that hold the volume; `ledger`
    is where it pays them, where that is not a ledger of its own.
    """
    words = phrase.split()
    rows = []
    for first in range(0, len(words), _WORDS_PER_LINE):
        row = enumerate(words[first : first + _WORDS_PER_LINE], first + 1)
        rows.append("    " + "".join(f"{place:>2}. {word:<12}" for place, word in row).rstrip())
    addresses = [f"    {address}" for address in farmers] or ["    none outside this machine yet"]
    return "\n".join(
        [
            "storjfs recovery kit",
            "====================",
            "",
            f"Volume     {volume}",
            f"Volume id  {volume_id.hex()}",
            f"Made on    {made}",
            "",
            "Recovery phrase:",
            "",
            *rows,
            "",
            "Farmers:",
            "",
            *addresses,
            "",
            *(("Ledger, for --ledger:", "", f"    {ledger}", "") if ledger else ()),
            "Whoever has these 24 words can read the volume and spend its balance. Without them, and without",
            "the passphrase of a machine that has the volume, nobody can, and nobody can help.",
            *PHRASE_IS_NOT_ENOUGH.splitlines(),
            "Print this page, put it in a safe place, and delete the file.",
            "",
        ]
    )
