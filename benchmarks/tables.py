"""Markdown tables, and the section of a document that a command keeps up to date."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import machine
from featurestore.cli.command import say
from featurestore.errors import UsageError

NOTHING = "-"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lays out a Markdown table.

    Args:
      header: names of the columns.
      rows: their cells, as many as there are columns.

    Returns:
      Lines.

    Example:
      >>> table(["way", "s"], [["ours", "1.0"]])
      ['| way | s |', '|---|---|', '| ours | 1.0 |']
    """
    return [_row(header), "|" + "---|" * len(header), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def number(value: float | None, unit: str = "", digits: int = 3) -> str:
    """Formats a figure with at least three digits; `NOTHING` for None.

    Example:
      >>> [number(value) for value in (12345.6, 123.4, 12.345, 0.98765, None)]
      ['12,346', '123', '12.3', '0.988', '-']
    """
    if value is None:
        return NOTHING
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:,.{max(0, digits - whole)}f}{unit}"


def write_section(path: Path, name: str, lines: Sequence[str]) -> None:
    """Replaces the text between the two marks of a section, or appends marks and text.

    Args:
      path: a Markdown file, which need not exist.
      name: of the section, such as ``benchmarks.heads``.
      lines: its new content.

    Raises:
      UsageError: if only one of the marks is there.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if (begin in text) != (end in text):
        raise UsageError(
            f"--write {path}: only one of {begin!r} and {end!r} is there; put the other back"
        )
    section = "\n".join([begin, *lines, end])
    if begin in text:
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        text = pattern.sub(lambda _: section, text, count=1)
    else:
        text = f"{text.rstrip()}\n\n{section}\n".lstrip()
    path.write_text(text, encoding="utf-8")


def publish(name: str, lines: Sequence[str], write: Path | None) -> None:
    """Prints a section below a line about the machine, and may write it into a document.

    Args:
      name: of the section, which is the command that measured it.
      lines: its lines of Markdown.
      write: the document, or None.
    """
    head = f"`python -m {name}`, {time.strftime('%Y-%m-%d')}: {machine()}."
    section = [head, "", *lines]
    for line in section:
        say(line)
    if write:
        write_section(write, name, section)
