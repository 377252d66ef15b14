"""What a run printed, kept for a document and compared with it. What differs from run to run is not compared."""

import os
import re
import sys
import time
from pathlib import Path
from typing import TextIO

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "try.md"
STALE = "docs/try.md does not show what this printed"


class Kept:
    """Standard output, and all that went there."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()


def plain(text: str, folder: Path) -> str:
    """Without colours and without the name of the run's folder.

    >>> plain("\\033[1m1.\\033[0m in /tmp/mcp-auth-try.x1/c.yaml", Path("/tmp/mcp-auth-try.x1"))
    '1. in /tmp/mcp-auth-try/c.yaml'
    """
    return re.sub(r"\033\[\d+m", "", text).replace(str(folder), "/tmp/mcp-auth-try")


def comparable(text: str) -> str:
    """Without numbers, times, fingerprints, made-up names of folders and blank ends of lines.

    >>> comparable('took 4.711 s at 2026-11-30T14:28:05.814877Z by "6f6d297744ea3be2" \\n')
    'took # s at #-#-#T#:#:#Z by "#"'
    """
    text = re.sub(r'"[0-9a-f]{16}"', '"#"', text)
    text = re.sub(r"/mcp-auth-\w{6}/", "/mcp-auth-#/", text)
    text = re.sub(r"\d+(\.\d+)?", "#", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def block(text: str) -> str:
    """As Markdown shows text as it is."""
    return "\n".join(f"    {line}".rstrip() for line in text.strip("\n").splitlines())


def first_difference(printed: str, document: str, in_order: bool = True) -> str:
    """The first line of each that the other lacks at this place; empty where they are the same. What several programs print comes in
    an order of its own, and then which lines there are is compared.

    >>> first_difference("a 1\\nb", "b\\na 2", in_order=False), first_difference("a\\nb", "b\\na") == ""
    ('', False)
    """
    ours, theirs = (comparable(text).splitlines() for text in (printed, document))
    if not in_order:
        ours, theirs = sorted(ours), sorted(theirs)
    for number in range(max(len(ours), len(theirs))):
        line, shown = (lines[number] if number < len(lines) else "(nothing)" for lines in (ours, theirs))
        if line != shown:
            return f"printed: {line.strip()}\nshown:   {shown.strip()}"
    return ""


def row(state: str, seconds: int) -> str:
    """How long a run took, and where.

    >>> row("again", 61).split("|")[1:3]
    [' everything there ', ' 1 min 1 s ']
    """
    took = f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"
    when = "nothing built, nothing downloaded" if state == "first" else "everything there"
    load = f"load average {os.getloadavg()[2]:.1f} in the 15 minutes before"
    return f"| {when} | {took} | {time.strftime('%Y-%m-%d', time.gmtime())}, {os.cpu_count()} cores, {load} |"


def keep_output() -> Kept:
    kept = sys.stdout = Kept(sys.stdout)
    return kept
