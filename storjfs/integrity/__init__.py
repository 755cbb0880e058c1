"""Looking a volume through, and putting right what can be: what `fsck`, `scrub` and `gc` do.

`check` reads a committed state of meta.db on a connection of its own and gives findings, each with a stable
code (docs/reference/fsck.md); `mend` puts them right in meta.db of a volume that nobody uses.
"""

from storjfs.integrity.check import Examination, check, mend
from storjfs.integrity.findings import KINDS, Finding, Findings, Severity
from storjfs.integrity.view import Stopped, View

__all__ = ["KINDS", "Examination", "Finding", "Findings", "Severity", "Stopped", "View", "check", "mend"]
