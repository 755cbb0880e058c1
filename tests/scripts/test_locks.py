"""The locks hold what pyproject.toml asks for, agree with each other, and name no place to fetch from."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-build.lock")

PINNED = re.compile(
    r"([a-z0-9][a-z0-9-]*)==([^ ;]+)(?: ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
)


def locked(name: str) -> dict[str, str]:
    return {found[1]: found[2] for found in PINNED.finditer((ROOT / name).read_text())}


def asked(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_.-]", one)[0].lower().replace("_", "-") for one in requirements}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_nothing_but_pinned_packages_with_hashes(name: str) -> None:
    assert PINNED.sub("", (ROOT / name).read_text()) == ""


def test_all_that_the_project_asks_for_is_locked() -> None:
    run = asked(PROJECT["project"]["dependencies"])
    assert run <= locked("requirements.lock").keys()
    assert (
        run | asked(PROJECT["project"]["optional-dependencies"]["dev"])
        <= locked("requirements-dev.lock").keys()
    )
    assert asked(PROJECT["dependency-groups"]["build"]) <= locked("requirements-build.lock").keys()
    assert asked(PROJECT["build-system"]["requires"]) <= locked("requirements-build.lock").keys()


def test_one_environment_satisfies_all_locks() -> None:
    development = locked("requirements-dev.lock")
    assert locked("requirements.lock").items() <= development.items()
    shared = locked("requirements-build.lock").keys() & development.keys()
    assert {name: development[name] for name in shared} == {
        name: locked("requirements-build.lock")[name] for name in shared
    }
