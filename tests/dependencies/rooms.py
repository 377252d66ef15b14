"""Looks for circles of imports between rooms: a room is a file or folder right below a crate's `src`.

Files of one room may know one another; of two rooms only one may know the other. What stands behind `#[cfg(test)]` does not
count, nor does a crate's root, which names all rooms.
"""

import re
import sys
from pathlib import Path

# The programs. In the library `oauth` each part has errors of its own, which the error type of the whole names.
CRATES = ("cli", "operator", "sidecar")
ROOTS = {"lib", "main", "bin"}
# The one that sees all rooms and starts them.
WIRING = {"run", "serve"}


def product(text):
    """The text without its tests and comments."""
    text = re.split(r"#\[cfg\(test\)\]\s*(?:pub(?:\([\w\s]+\))? )?(?:mod|use) ", text)[0]
    return re.sub(r"//.*", "", text)


def names(text):
    """First segments behind `crate::`, in paths and in groups of a `use`."""
    yield from re.findall(r"\bcrate::(\w+)", text)
    for group in re.findall(r"\bcrate::\{([^;]*)\};", text):
        yield from re.findall(r"(?:^|,)\s*(\w+)", re.sub(r"\{[^{}]*\}", "", group))


def exports(source):
    """The rooms that names of the crate's root come from: `pub use renewal::TokenSource`."""
    text = product((source / "lib.rs").read_text())
    for room, group in re.findall(r"\buse (?:self::|crate::)?(\w+)::([^;]+);", text):
        for name in re.findall(r"(?:\bas )?(\w+)(?!\w*::)(?! as)", group):
            yield name, room


def rooms(crate):
    source = Path(crate) / "src"
    exported = dict(exports(source))
    found = {}
    for file in source.rglob("*.rs"):
        room = file.relative_to(source).parts[0].removesuffix(".rs")
        if room not in ROOTS and file.stem != "tests" and "tests" not in file.parts:
            mentioned = names(product(file.read_text()))
            found.setdefault(room, set()).update(exported.get(name, name) for name in mentioned)
    return {room: (knows & found.keys()) - {room} for room, knows in found.items() if room not in WIRING}


def reaches(graph, start):
    seen, todo = set(), list(graph.get(start, ()))
    while todo:
        room = todo.pop()
        if room not in seen:
            seen.add(room)
            todo += graph.get(room, ())
    return seen


def main():
    circles = []
    for crate in CRATES:
        graph = rooms(crate)
        inside = sorted(room for room in graph if room in reaches(graph, room))
        if inside:
            edges = ", ".join(f"{room} -> {other}" for room in inside for other in sorted(graph[room] & set(inside)))
            circles.append(f"error: rooms of {crate} know one another in a circle: {edges}")
    if circles:
        sys.exit("\n".join(circles))


if __name__ == "__main__":
    main()
