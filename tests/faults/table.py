"""Puts the lines that the tests counted into the document, between its two marks."""

import sys
from pathlib import Path

BEGIN, END = "<!-- counted by make faults -->", "<!-- end -->"
HEAD = (
    "| fault | what the test does | calls sent | calls failed | tokens minted | seconds until calm | status writes |\n"
    "|---|---|---|---|---|---|---|\n"
)


def main(rows: str, document: str) -> None:
    path = Path(document)
    before, rest = path.read_text().split(BEGIN)
    _, after = rest.split(END)
    table = HEAD + Path(rows).read_text()
    path.write_text(f"{before}{BEGIN}\n{table}{END}{after}")


if __name__ == "__main__":
    main(*sys.argv[1:])
