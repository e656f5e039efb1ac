"""Prints the whole verdict table as CSV, every combination with its row and result: `make verdict-table`.

For reviewers and for other implementations to compare with; the words are those of DESIGN.md section 5.
"""

from __future__ import annotations

import csv
import os
import sys
from typing import TextIO

from guard.core.verdict import COLUMNS, cases, judge


def write_table(out: TextIO) -> None:
    """Header and 17,280 lines, in the order of the columns, lines ending in a newline alone."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*COLUMNS, "row", "result"))
    for case in cases():
        verdict = judge(case)
        writer.writerow((*case.words(), verdict.row, verdict.result))


def main() -> None:
    try:
        write_table(sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
