"""Frames, shard seal, erasure code and Merkle trees: what turns file data into shards and proves them.

Pure functions and small immutable objects: no loop, no sockets, no files, no clock. All of it may be used
from several threads at once. The bytes are specified in docs/formats/coding.md.
"""
