"""The commands a person types: parsing, questions, messages, tables. What they do is done below."""

from .app import main

__all__ = ["main"]
