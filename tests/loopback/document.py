"""What was measured, in a document between two marks, and in few words."""

import statistics
from collections.abc import Callable
from pathlib import Path


def put_into(document: Path, begin: str, end: str, text: str) -> None:
    before, _, rest = document.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{document} lacks the mark {begin!r} or {end!r}")
    document.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def part_of(document: Path, begin: str, end: str) -> str:
    """What is between the marks now."""
    return document.read_text().partition(begin)[2].partition(end)[0]


def spread(values: list[float], show: Callable[[float], str]) -> str:
    """The median and, where values differ in how they are shown, their range.

    >>> spread([3, 1, 2], "{:g}".format), spread([2.02, 2.01, 2.04], "{:.1f}".format)
    ('2 (1 to 3)', '2.0')
    """
    middle, least, most = (show(value) for value in (statistics.median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least} to {most})"
