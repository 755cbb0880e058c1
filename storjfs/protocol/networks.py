"""Names of networks: farmers and renters of one name find each other, and no others."""

from typing import Final

NETWORK: Final = "storjfs"
"""The network of everybody who names no other."""
LONGEST_NETWORK: Final = 128


def network_bytes(network: str) -> bytes:
    """The name as it goes into digests. Raises ValueError where it is no name."""
    name = network.encode()
    if not 1 <= len(name) <= LONGEST_NETWORK:
        raise ValueError(f"the name of a network has 1 to {LONGEST_NETWORK} bytes")
    return name
