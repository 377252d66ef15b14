"""Looks whether docs/dashboard.md shows a picture of each panel of the chart's dashboard, drawn by the panel's own queries,
with data in it. `make alerts` starts it.
"""

import re
import sys

from panels import REPOSITORY, panels
from render import figure, queries_of

DOCUMENT = REPOSITORY / "docs/dashboard.md"
PICTURES = REPOSITORY / "docs/dashboard"


def problems() -> list[str]:
    shown = re.findall(r"^<figure>.*</figure>$", DOCUMENT.read_text(), re.MULTILINE)
    expected = [panel.name for panel in panels()]
    found = []
    if shown != [figure(panel) for panel in panels()]:
        found.append(f"docs/dashboard.md does not show the panels as the dashboard has them: {', '.join(expected)}")
    found += [f"the panel {panel.title} has no description" for panel in panels() if not panel.description]
    there = {picture.stem for picture in PICTURES.glob("*.svg")}
    found += [f"docs/dashboard/{name}.svg is no panel's" for name in sorted(there - set(expected))]
    for panel in panels():
        path = PICTURES / f"{panel.name}.svg"
        picture = path.read_text() if path.is_file() else ""
        if queries_of(picture) != [target.expr for target in panel.targets]:
            found.append(f"{path.relative_to(REPOSITORY)} is not drawn by what the panel {panel.title} asks now")
        elif len(re.findall(r'<path class="series" d="M[^"]', picture)) < len(panel.targets):
            found.append(f"{path.relative_to(REPOSITORY)} has fewer lines than the panel has queries")
    return found


def main() -> None:
    found = problems()
    if found:
        found.append("draw the pictures anew by `make dashboard`")
        sys.exit("\n".join(f"error: {problem}" for problem in found))
    print(f"{len(panels())} panels have their pictures")


main()
