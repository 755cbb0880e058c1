"""The recovery phrase: 24 English BIP-39 words for 32 bytes of entropy.

What people type is read kindly (any case and white space, numbered words in any order, words cut to their
first four letters, which BIP-39 keeps unique); what is wrong is named.
"""

import difflib
import functools
import os
import re
import unicodedata

from mnemonic import Mnemonic

from storjfs.errors import StorjfsError

ENTROPY_BYTES = 32
WORDS = 24

_NUMBERED_WORD = re.compile(r"(?<!\S)(\d{1,2})[.):]\s+([^\W\d_]+)")


class PhraseError(StorjfsError):
    """These words are not a recovery phrase; the message says which one is wrong and shows no other."""


def new_entropy() -> bytes:
    """Fresh entropy for a volume, from the operating system."""
    return os.urandom(ENTROPY_BYTES)


def entropy_to_phrase(entropy: bytes) -> str:
    """The 24 words of 32 bytes, separated by single spaces."""
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"the entropy of a volume is {ENTROPY_BYTES} bytes, not {len(entropy)}")
    return _english().to_mnemonic(entropy)


def phrase_to_entropy(text: str) -> bytes:
    """The entropy behind a phrase as typed, or behind the text of a recovery kit.

    Raises PhraseError that tells the number of words, the place of an unknown word with what it may have been
    meant to be, or that the words do not belong together (the 8-bit checksum).
    """
    words = [_known(place, word) for place, word in enumerate(_split(text), 1)]
    try:
        return bytes(_english().to_entropy(words))
    except ValueError:
        raise PhraseError(
            "all 24 words are valid, but they do not belong together: one is wrong or two are swapped",
            hint="Compare them, in order, with what you wrote down.",
        ) from None


def _split(text: str) -> list[str]:
    text = unicodedata.normalize("NFKD", text).lower()
    numbered = {int(number): word for number, word in _NUMBERED_WORD.findall(text)}
    words = [numbered[place] for place in sorted(numbered)] if numbered else text.split()
    if len(words) != WORDS or (numbered and sorted(numbered) != list(range(1, WORDS + 1))):
        raise PhraseError(
            f"a recovery phrase has {WORDS} words, these are {len(words)}",
            hint="Type all the words, in order, separated by spaces.",
        )
    return words


def _known(place: int, word: str) -> str:
    wordlist = _english().wordlist
    if word in wordlist:
        return word
    if len(word) == 4:
        longer = [known for known in wordlist if known.startswith(word)]
        if len(longer) == 1:
            return longer[0]
    near = difflib.get_close_matches(word, wordlist, n=3, cutoff=0.7)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    raise PhraseError(
        f"word {place} of the recovery phrase is not one of the 2048 words",
        hint=f"Look again at word {place}.{meant}",
    )


@functools.cache
def _english() -> Mnemonic:
    return Mnemonic("english")
