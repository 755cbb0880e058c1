"""The other side: a farmer's shelf of shards, its proofs, its contracts, and what it earns.

`Farmer` is one of them, `embedded` hosts several in one process; `storjfs farm` is in daemon and cli.
What lies on a farmer's disk is specified in docs/formats/farmer.md.
"""
