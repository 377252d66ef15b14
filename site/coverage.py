"""Looks whether every page of docs/ is in SUMMARY.md and, the other way round, whether every page that it names is there;
whether every test that a page names exists; whether each row of the tables of `PROVEN` names one, or says that there is none; and whether pages link to files that stand outside of docs/, and not to what
stands for them on the site.
"""

import re
import subprocess
import sys
from pathlib import Path

import pages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Pages whose tables say in their last column, *test*, what shows each row.
PROVEN = ("oauth-reports.md", "providers/README.md", "security-model.md")
# A test's name is a sentence; other names in code are shorter, or begin with the product's.
SENTENCE = re.compile(r"`((?!mcpauth_)[a-z0-9]+(?:_[a-z0-9]+){5,})`")


def rows_without_test(text, names):
    """The rows of tables whose last column is *test* that name none that is there, and do not say that there is none."""
    in_table = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            in_table = False
        elif cells[-1] == "test":
            in_table = True
        elif in_table and (not cells[-1] or not set(cells[-1]) <= {"-"}):
            named = re.findall(r"`(\w+)`", cells[-1])
            if "no test" not in cells[-1] and (not named or not set(named) <= names):
                yield cells[0]


def main():
    listed = re.findall(r"\]\(([^)]+\.md)\)", (DOCS / "SUMMARY.md").read_text())
    there = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} - {"SUMMARY.md"}
    problems = [f"docs/SUMMARY.md names {name}, which is not there" for name in listed if name not in there]
    problems += [f"docs/{name} is not in docs/SUMMARY.md: add it, so that the site has it" for name in sorted(there - set(listed))]
    tracked = subprocess.run(["git", "ls-files", "*.rs", "*.py"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    source = "\n".join((ROOT / name).read_text() for name in tracked.split() if (ROOT / name).is_file())
    names = set(re.findall(r"\b(?:fn|def) (\w+)", source))
    stand_ins = {(ROOT / name).resolve() for name in pages.stand_ins().values()}
    for page in sorted(DOCS.rglob("*.md")):
        problems += [f"{page.relative_to(ROOT)} names the test `{name}`, which is not there"
                     for name in SENTENCE.findall(page.read_text()) if name not in names]
        problems += [f"{page.relative_to(ROOT)}: the row `{row}` names no test that is there: name one, or write: no test"
                     for row in rows_without_test(page.read_text(), names) if page.relative_to(DOCS).as_posix() in PROVEN]
        problems += [f"{page.relative_to(ROOT)} links to {target}, which only the site has: link to the file that it stands for"
                     for target in re.findall(r"\]\(([^)#]+\.md)[)#]", page.read_text())
                     if page != DOCS / "SUMMARY.md" and (page.parent / target).resolve() in stand_ins]
    if problems:
        sys.exit("\n".join(f"error: {problem}" for problem in problems))


if __name__ == "__main__":
    main()
