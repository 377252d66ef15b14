"""Compares the versions of LiteLLM that the README and docs/surfaces.md name with those that the tests are locked to."""

import re
import sys
from pathlib import Path

PYTHON = Path("tests/images/python")


def locked(requirements):
    return re.search(r"^litellm==(\S+)", (PYTHON / requirements).read_text(), re.MULTILINE)[1]


def main():
    newest = locked("requirements.txt")
    oldest = [path.stem.removeprefix("requirements-") for path in PYTHON.glob("requirements-[0-9]*.txt")]
    wrong = [f"error: {PYTHON}/requirements-{each}.txt installs LiteLLM {locked(f'requirements-{each}.txt')}"
             for each in oldest if locked(f"requirements-{each}.txt") != each]
    wrong += [
        f"error: {document} does not say `{sentence}`: run `make newest-litellm`, or correct it"
        for each in oldest
        for document, sentence in {
            "README.md": f"LiteLLM {each} or newer (tested with it and with {newest})",
            "docs/surfaces.md": f"| surface | {newest}: tools/list | {newest}: tools/call | {each}: tools/list | {each}: tools/call |",
        }.items()
        if sentence not in Path(document).read_text()
    ]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
