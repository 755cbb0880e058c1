"""A long run of the fuzzer: `scripts/fuzz [--inputs N] [--seed S] [--only TARGET]`.

Inputs are random, in rounds of their own seeds, so that any of them can be had again. Ends with 1 at the
first one that breaks something, and shows it.
"""

import argparse
import time
from random import Random

from tests.fuzz.targets import TARGETS, Target

ROUND = 5000


def fuzz_round(target: Target, seed: int, inputs: int) -> None:
    """So many inputs for one target. Raises what the target raises, with a note of the input."""
    source = Random(seed)
    for _ in range(inputs):
        drawn = [one.draw(source) for one in target.inputs]
        try:
            target.run(*drawn)
        except BaseException as error:
            error.add_note(f"seed {seed}: {target.run.__name__}{tuple(drawn)!r}")
            raise


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzz the protocol and connections.")
    parser.add_argument("--inputs", type=int, default=100_000, help="in all (default 100,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (default 0)")
    parser.add_argument("--only", choices=TARGETS, help="one target only")
    arguments = parser.parse_args()
    chosen = {arguments.only: TARGETS[arguments.only]} if arguments.only else TARGETS
    shares = sum(target.share for target in chosen.values())
    left = {name: -(-arguments.inputs * target.share // shares) for name, target in chosen.items()}
    # Every target gets as many rounds, so that a run that is stopped early has tried all of them.
    rounds = max(1, -(-max(left.values()) // ROUND))
    done, seed, began = 0, arguments.seed, time.monotonic()
    for number in range(rounds):
        for name, target in chosen.items():
            inputs = left[name] // (rounds - number)
            fuzz_round(target, seed, inputs)
            left[name] -= inputs
            done += inputs
            seed += 1
        print(f"{done:,} inputs, {time.monotonic() - began:.0f} s, next seed {seed}", flush=True)


if __name__ == "__main__":
    main()
