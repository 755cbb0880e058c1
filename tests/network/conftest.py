"""What tests of the network share."""

import pytest
import trio

from tests.network.village import Village


@pytest.fixture
async def village(nursery: trio.Nursery) -> Village:
    return Village(nursery)
