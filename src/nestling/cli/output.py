"""Prints for programs (JSON) and for people (lines, tables, answers)."""

import json
import sys
from collections.abc import Sequence
from shutil import get_terminal_size
from typing import Any

from nestling.plain_text import escape_controls, escape_line


def print_json(data: Any) -> None:
    """Write `data` to standard output as indented JSON, in ASCII, with a newline at its end."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")


def print_text(text: str = "") -> None:
    """Write lines to standard output, without control characters, and a newline."""
    print(escape_controls(text))


def print_notice(text: str) -> None:
    """Write lines to stderr: what is for the person at the terminal and not part of an answer."""
    sys.stdout.flush()
    print(escape_controls(text), file=sys.stderr)


def write_answer(text: str) -> None:
    """Write a piece of an answer at once: exactly as it is, but harmless on a terminal."""
    sys.stdout.write(escape_controls(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write left-aligned columns under an upper-case header.

    If a terminal is too narrow for them, each row becomes a block of lines, one a cell.
    """
    names = [name.upper() for name in header]
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in (names, *cells)) for i in range(len(header))]
    if sys.stdout.isatty() and sum(widths) + 2 * len(widths) - 2 > get_terminal_size().columns:
        width = max(map(len, names))
        blocks = [
            "\n".join(f"{name.ljust(width)}  {cell}" for name, cell in zip(names, row, strict=True))
            for row in cells
        ]
        print("\n\n".join(blocks))
        return
    for line in (names, *cells):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(text.rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else escape_line(str(value))
