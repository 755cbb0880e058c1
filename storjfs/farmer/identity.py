"""A farmer's key: that of its node."""

from storjfs.volume.identity import FILE, IdentityUnusable, load_identity

__all__ = ["FILE", "IdentityUnusable", "load_identity"]
