"""Looks whether links of the documents lead somewhere: to a file that is there and, where they name a heading, to one that it has.
`make site` looks at the site's own links besides.
"""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^()\s]+)\)")
CODE = re.compile(r"^( *)```.*?^\1```[^\n]*$|`[^`\n]*`|^    [^\n]*$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^( *)```.*?^\1```[^\n]*$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)
INCLUDE = re.compile(r"\{\{#include (\S+)\}\}\s*")


def slug(heading: str) -> str:
    """As GitHub and mdBook make it.

    >>> slug("What `doctor` says: the [five](criteria.md) criteria"), slug("With an id {#own}")
    ('what-doctor-says-the-five-criteria', 'own')
    """
    if stated := re.search(r"\{#([\w-]+)\}$", heading):
        return stated[1]
    text = re.sub(r"\[([^\[\]]*)\]\([^()]*\)", r"\1", heading)
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", text.strip().lower()))


def anchors(page: Path) -> set[str]:
    """
    >>> anchors(ROOT / "docs/one-machine.md") >= {"settings", "the-auth-block", "check-a-set-up"}
    True
    """
    text = page.read_text()
    if whole := INCLUDE.fullmatch(text):
        return anchors((page.parent / whole[1]).resolve())
    found: set[str] = set(re.findall(r'\bid="([^"]+)"', text))
    for heading in HEADING.findall(FENCED.sub("", text)):
        name, number = slug(heading), 0
        while (made := f"{name}-{number}" if number else name) in found:
            number += 1
        found.add(made)
    return found


def problems(page: Path) -> list[str]:
    found = []
    for target in LINK.findall(CODE.sub("", page.read_text())):
        path, _, anchor = unquote(target).partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        file = (page.parent / path).resolve() if path else page
        name = page.relative_to(ROOT)
        if file.is_dir() and anchor:
            file = file / "README.md"
        if not file.exists():
            found.append(f"{name} links to {target}, which is not there")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            found.append(f"{name} links to {target}, and {file.relative_to(ROOT)} has no such heading")
    return found


def main() -> None:
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    pages = [ROOT / name for name in tracked if (ROOT / name).is_file()]
    if found := [problem for page in pages for problem in problems(page)]:
        sys.exit("\n".join(f"error: {problem}" for problem in found))


if __name__ == "__main__":
    main()
