"""Running one statement for many rows in few steps.

Each step of SQLite releases Python's lock and must get it back, which costs up to a switch interval (5 ms)
while the loop computes. So one-row statements are widened: 1,000 rows take 5 steps, not 1,000.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import apsw

Value = None | int | float | str | bytes
Values = tuple[Value, ...]

# Few distinct widths, so that prepared statements are found again.
WIDTHS = (256, 64, 16, 4)
_VALUES = re.compile(r"\bVALUES\s*(\([?, ]+\))([^?]*)$", re.IGNORECASE)


@lru_cache(maxsize=512)
def widened(sql: str, rows: int) -> str | None:
    """`sql` for `rows` rows at once, None where its shape does not allow that.

    Widened are statements whose only parameters are one group, `... VALUES (?, ?)`, also in deletions by key:
    `DELETE FROM t WHERE (a, b) IN (VALUES (?, ?))`, and with what is to be done on a conflict.
    """
    match = _VALUES.search(sql)
    if match is None or "?" in sql[: match.start()]:
        return None
    return sql[: match.start(1)] + ", ".join([match[1]] * rows) + match[2]


def run_rows(cursor: apsw.Cursor, sql: str, rows: Sequence[Values]) -> None:
    """Execute `sql` once per row of `rows`, in their order, in as few steps as possible."""
    at, count = 0, len(rows)
    if count > 3 and widened(sql, 4) is not None:
        for width in WIDTHS:
            wide = widened(sql, width)
            assert wide is not None
            while count - at >= width:
                cursor.execute(wide, tuple(chain.from_iterable(rows[at : at + width]))).fetchall()
                at += width
    for row in rows[at:]:
        cursor.execute(sql, row).fetchall()
