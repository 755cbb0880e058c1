"""A cache of a bounded size, no step of which costs more than another."""

import random

import pytest

from storjfs.filesystem.generations import Generations

LIMIT = 1000


class Item:
    looks = 0

    def __init__(self, weight: int = 1, pins: int = 0) -> None:
        self.weight = weight
        self._pins = pins

    @property
    def pins(self) -> int:
        Item.looks += 1
        return self._pins

    @pins.setter
    def pins(self, value: int) -> None:
        self._pins = value


def held(cache: Generations[Item]) -> dict[int, Item]:
    return cache._leaving | cache.old | cache.young


@pytest.mark.parametrize("pinned", [0, 1, 10])
def test_no_call_looks_at_more_than_its_weight_asks_for(pinned: int) -> None:
    cache = Generations[Item](LIMIT)
    for key in range(20 * LIMIT):
        Item.looks = 0
        cache.put(key, Item(1, pins=key % 10 < pinned))
        assert Item.looks <= 2


@pytest.mark.parametrize("heaviest", [1, 40])
def test_it_holds_at_most_two_generations(heaviest: int) -> None:
    cache, chance = Generations[Item](LIMIT), random.Random(1)
    for key in range(20 * LIMIT):
        cache.put(key, Item(chance.randint(1, heaviest) if key // LIMIT % 2 else 1))
        assert sum(item.weight for item in held(cache).values()) <= 2 * LIMIT + 2 * heaviest
    assert len(held(cache)) >= LIMIT / heaviest


def test_what_is_pinned_stays_and_is_always_the_same() -> None:
    cache, chance = Generations[Item](LIMIT), random.Random(1)
    pinned = {}
    for key in range(20 * LIMIT):
        item = Item(pins=chance.random() < 0.2)
        if item.pins:
            pinned[key] = item
        cache.put(key, item)
        if pinned and chance.random() < 0.3:
            some = chance.choice(list(pinned))
            assert (cache.peek if chance.random() < 0.5 else cache.get)(some) is pinned[some]
        if pinned and chance.random() < 0.19:
            pinned.pop(chance.choice(list(pinned))).pins = 0
    assert {key: cache.get(key) for key in pinned} == pinned


def test_what_is_used_again_stays() -> None:
    cache = Generations[Item](LIMIT)
    used = Item()
    cache.put(-1, used)
    for key in range(10 * LIMIT):
        cache.put(key, Item())
        if key % (LIMIT // 2) == 0:
            assert cache.get(-1) is used


def test_what_was_dropped_is_gone_wherever_it_was() -> None:
    cache = Generations[Item](LIMIT)
    for key in range(int(2.25 * LIMIT)):
        cache.put(key, Item())
    assert cache._leaving
    assert cache.old
    assert cache.young
    for key in held(cache):
        cache.drop(key)
        assert cache.get(key) is None
    assert not held(cache)
