"""What was measured, in a document between two marks."""

from pathlib import Path


def put_into(document: Path, begin: str, end: str, text: str) -> None:
    before, _, rest = document.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{document} lacks the mark {begin!r} or {end!r}")
    document.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def text_between(document: Path, begin: str, end: str) -> str:
    _, _, rest = document.read_text().partition(begin)
    return rest.partition(end)[0].strip()
