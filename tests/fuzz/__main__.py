"""A long run of the fuzzer: `scripts/fuzz [--inputs N] [--seed S] [--only TARGET]`.

Inputs come in rounds of their own seeds, so memory stays bounded and any round can be had again. Ends with 1
at the first input that breaks something, which it shows in its smallest form.
"""

import argparse
import sys
import time

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import TARGETS, Target

ROUND = 2000


def fuzz_round(target: Target, number: int, inputs: int) -> None:
    """So many inputs for one target. Raises what the target raises, for the smallest input that does."""
    quiet = settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    seed(number)(quiet(given(*target.inputs)(target.run)))()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description="Fuzz the protocol and its connections."
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="in all (default 100,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (default 0)")
    parser.add_argument("--only", choices=TARGETS, help="one target only")
    given_ = parser.parse_args()
    chosen = {given_.only: TARGETS[given_.only]} if given_.only else TARGETS
    shares = sum(target.share for target in chosen.values())
    left = {name: -(-given_.inputs * target.share // shares) for name, target in chosen.items()}
    done, number, began = 0, given_.seed, time.monotonic()
    while any(left.values()):
        for name in [name for name, count in left.items() if count]:
            inputs = min(ROUND, left[name])
            try:
                fuzz_round(chosen[name], number, inputs)
            except BaseException:
                print(f"{name} broke in the round with the seed {number}", file=sys.stderr)
                raise
            left[name] -= inputs
            done += inputs
            number += 1
        print(f"{done:,} inputs, {time.monotonic() - began:.0f} s, next seed {number}", flush=True)


if __name__ == "__main__":
    main()
