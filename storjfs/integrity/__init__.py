"""Looking a volume through, and putting right what can be: what `fsck`, `scrub` and `gc` do.

`check` reads a committed state of meta.db on a connection of its own and gives findings, each with a stable
code (docs/reference/fsck.md); `mend` puts them right in meta.db of a volume that nobody uses, `LiveMender` in
one that is mounted; `FarmerCheck` compares with what farmers say they hold; `Scrub` reads shards back;
`Collector` frees what nothing needs.
"""

from storjfs.integrity.check import Examination, check, mend
from storjfs.integrity.collecting import Collected, Collector
from storjfs.integrity.farmers import FarmerCheck
from storjfs.integrity.findings import KINDS, Finding, Findings, Severity
from storjfs.integrity.live import SUMS, LiveMender, difference
from storjfs.integrity.mending import Mender
from storjfs.integrity.mending_local import LocalFiles
from storjfs.integrity.scrub import Scrub, ScrubState
from storjfs.integrity.view import Stopped, View

__all__ = [
    "KINDS",
    "SUMS",
    "Collected",
    "Collector",
    "Examination",
    "FarmerCheck",
    "Finding",
    "Findings",
    "LiveMender",
    "LocalFiles",
    "Mender",
    "Scrub",
    "ScrubState",
    "Severity",
    "Stopped",
    "View",
    "check",
    "difference",
    "mend",
]
