"""For all tests: how long one input of a property takes says nothing about what is tested."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Processes that test side by side keep their folders in short places: a socket's path may have about a
    hundred bytes, and ends up in one directory for all where it would be longer."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        parent = Path(config.option.basetemp).parent
        config.option.basetemp = parent / worker["workerid"].removeprefix("gw")
