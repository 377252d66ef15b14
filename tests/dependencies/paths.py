"""Looks for files and folders that documents name and that are not there, so that the map stays true.

A name in backquotes counts if it ends in a known extension or holds a slash and begins with a folder of this repository. It
may be the end of a path: `renewal/policy.rs` for `oauth/src/renewal/policy.rs`.
"""

import re
import subprocess
import sys
from pathlib import Path

EXTENSIONS = ("rs", "py", "mjs", "toml", "tpl", "sh")
# Words between backquotes that look like a file of ours, and are somebody else's or an example.
OTHERS = {"name.rs", "mod.rs"}


def listing():
    files = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.split()
    folders = {str(parent) for file in files for parent in Path(file).parents}
    return set(files) | folders - {"."}


def mentions(text, roots):
    for name in re.findall(r"`([\w./-]+)`", text):
        if name.split(".")[-1] in EXTENSIONS and name not in OTHERS:
            yield name
        elif "/" in name and name.split("/")[0] in roots:
            yield name.rstrip("/")


def main():
    paths = listing()
    roots = {path.split("/")[0] for path in paths if "/" in path}
    known = {"/" + path for path in paths}
    missing = [
        f"error: {document} names `{name}`, which is not there"
        for document in sorted(path for path in paths if path.endswith(".md"))
        for name in mentions(Path(document).read_text(), roots)
        if not any(path.endswith("/" + name) for path in known)
    ]
    if missing:
        sys.exit("\n".join(missing))


if __name__ == "__main__":
    main()
