import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.keys import PhraseError, entropy_to_phrase, new_entropy, phrase_to_entropy, recovery_kit

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "keys.json").read_text())
PHRASE = VECTORS["phrases"][2]["phrase"]
ENTROPY = bytes.fromhex(VECTORS["phrases"][2]["entropy"])
WORDS = PHRASE.split()

entropies = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize("vector", VECTORS["phrases"])
def test_phrase_matches_the_vectors(vector: dict[str, str]) -> None:
    assert entropy_to_phrase(bytes.fromhex(vector["entropy"])) == vector["phrase"]
    assert phrase_to_entropy(vector["phrase"]).hex() == vector["entropy"]


@given(entropies)
def test_phrase_gives_the_entropy_back(entropy: bytes) -> None:
    phrase = entropy_to_phrase(entropy)
    assert len(phrase.split()) == 24
    assert phrase_to_entropy(phrase) == entropy


def test_new_entropy_is_new_each_time() -> None:
    assert len(new_entropy()) == 32
    assert new_entropy() != new_entropy()


@pytest.mark.parametrize(
    "typed",
    [
        PHRASE.upper(),
        "\n\t " + PHRASE.replace(" ", "\n  ") + "\n",
        " ".join(f"{place}. {word}" for place, word in enumerate(WORDS, 1)),
        "\n".join(f"{place}) {WORDS[place - 1]}" for place in range(24, 0, -1)),
        " ".join(word[:4] for word in WORDS),
    ],
    ids=["upper case", "lines", "numbered", "numbered backwards", "four letters each"],
)
def test_phrase_is_read_as_people_write_it(typed: str) -> None:
    assert phrase_to_entropy(typed) == ENTROPY


@given(entropies, st.integers(0, 23))
def test_unknown_word_is_named_by_its_place_and_no_other_word_is_shown(entropy: bytes, place: int) -> None:
    words = entropy_to_phrase(entropy).split()
    words[place] = "qqqqq"
    with pytest.raises(PhraseError) as caught:
        phrase_to_entropy(" ".join(words))
    assert str(caught.value) == f"word {place + 1} of the recovery phrase is not one of the 2048 words"
    assert caught.value.hint == f"Look again at word {place + 1}."


def test_misspelt_word_comes_with_a_suggestion() -> None:
    with pytest.raises(PhraseError) as caught:
        phrase_to_entropy(" ".join(["abandom", *WORDS[1:]]))
    assert "abandon" in caught.value.hint


def test_swapped_words_fail_the_checksum() -> None:
    with pytest.raises(PhraseError, match="swapped"):
        phrase_to_entropy(" ".join([WORDS[1], WORDS[0], *WORDS[2:]]))


@pytest.mark.parametrize("count", [0, 12, 23, 25])
def test_wrong_number_of_words_is_told(count: int) -> None:
    with pytest.raises(PhraseError, match=f"these are {count}$"):
        phrase_to_entropy(" ".join((WORDS * 2)[:count]))


def test_numbered_phrase_with_a_gap_is_refused() -> None:
    numbered = [f"{place}. {word}" for place, word in enumerate(WORDS, 1)]
    with pytest.raises(PhraseError, match="these are 23"):
        phrase_to_entropy(" ".join(numbered[:10] + numbered[11:]))


@given(entropies)
def test_recovery_kit_is_a_phrase_file(entropy: bytes) -> None:
    kit = recovery_kit(
        entropy_to_phrase(entropy),
        volume="default",
        volume_id=bytes(16),
        made="2026-01-02",
        farmers=["10.0.0.1:7000", "9.example.org:7001", "[::1]:7002"],
    )
    assert phrase_to_entropy(kit) == entropy
    assert "9.example.org:7001" in kit


def test_recovery_kit_names_the_ledger() -> None:
    at = f"{'0123456789abcdef' * 4}@ledger.example.org:7430"
    phrase = entropy_to_phrase(bytes(32))
    kit = recovery_kit(phrase, volume="default", volume_id=bytes(16), made="2026-01-02", ledger=at)
    assert at in kit
    assert phrase_to_entropy(kit) == bytes(32)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_entropy_of_another_length_has_no_phrase(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        entropy_to_phrase(bytes(length))
