"""Puts what was measured into a document, between two marks."""

from pathlib import Path


def put_into(document: Path, begin: str, end: str, text: str) -> None:
    before, _, rest = document.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{document} lacks the mark {begin!r} or {end!r}")
    document.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
