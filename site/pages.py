"""A preprocessor of mdBook: makes pages of the site that stand in the repository outside of docs/, such as SECURITY.md, fit
in. A page of docs/ that is nothing but `{{#include ../../FILE}}` stands for that file; links to the file lead to that page,
and links within it start from the file. What is not on the site is linked to MCPAUTH_SITE_REPOSITORY, the URL of the
repository, or is plain text where that is not set. Blocks of `svgbob` become drawings, the page of the examples holds
them all, and pictures of the dashboard become part of their page, so that they have the colours of the reader's theme.

Called by mdBook as book.toml says: with `supports RENDERER`, or with the book on standard input.
"""

import json
import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
INCLUDE = re.compile(r"\{\{#include (\S+)\}\}\n?")
# Links of Markdown, outside of code: `[text](target)`, without images.
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
EXAMPLES = "examples/README.md"
PICTURE = re.compile(r'<img src="(dashboard/[a-z0-9-]+\.svg)" alt="[^"]*">')
DIAGRAM = re.compile(r"^```svgbob\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def chapters(items):
    for item in items:
        if chapter := item.get("Chapter") if isinstance(item, dict) else None:
            yield chapter
            yield from chapters(chapter["sub_items"])


def stand_ins():
    """Pages of docs/ that stand for another file, by that file."""
    found = {}
    for page in sorted((ROOT / "docs").rglob("*.md")):
        if match := INCLUDE.fullmatch(page.read_text()):
            name = page.relative_to(ROOT).as_posix()
            found[posixpath.normpath(posixpath.join(posixpath.dirname(name), match[1]))] = name
    return found


class Links:
    def __init__(self, stand_ins, pages, repository):
        self.stand_ins, self.pages, self.repository = stand_ins, pages, repository.rstrip("/")
        self.origins = {page: origin for origin, page in stand_ins.items()}

    def of_page(self, page, content):
        """The page's text, with links that hold on the site."""
        origin = self.origins.get(page, page)
        parts = CODE.split(content)
        # A link's text may hold code, so that links are looked for in the whole line that code has been cut out of.
        kept = {f"\x00{number}\x00": part for number, part in enumerate(parts) if number % 2}
        text = "".join(f"\x00{number}\x00" if number % 2 else part for number, part in enumerate(parts))
        text = LINK.sub(lambda match: self.link(page, origin, match[1], match[2]), text)
        return re.sub("\x00\\d+\x00", lambda match: kept[match[0]], text)

    def link(self, page, origin, text, target):
        path, mark, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return f"[{text}]({target})"
        name = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        if not (ROOT / name).exists():
            sys.exit(f"error: {origin} links to {path}, which is not there")
        if (ROOT / name).is_dir() and f"{name}/README.md" in self.pages:
            name += "/README.md"
        if name.startswith("examples/") and name.endswith(".yaml"):
            mark, anchor, name = "#", example_anchor(name), EXAMPLES
        name = self.stand_ins.get(name, name)
        if name in self.pages or (name.startswith("docs/") and not name.endswith(".md") and (ROOT / name).is_file()):
            name = re.sub(r"README\.md$", "index.md", name)  # as mdBook calls them
            return f"[{text}]({posixpath.relpath(name, posixpath.dirname(page))}{mark}{anchor})"
        if self.repository:
            kind = "tree" if (ROOT / name).is_dir() else "blob"
            return f"[{text}]({self.repository}/{kind}/main/{name}{mark}{anchor})"
        return text


def example_anchor(name):
    return name.removeprefix("examples/").removesuffix(".yaml").replace("/", "-")


def all_examples():
    """The manifests of examples/, each under a heading of its own."""
    for file in sorted((ROOT / "examples").rglob("*.yaml")):
        name = file.relative_to(ROOT).as_posix()
        yield f"\n## {name.removeprefix('examples/')} {{#{example_anchor(name)}}}\n\n```yaml\n{file.read_text()}```\n"


def drawn(match):
    """The block as SVG, which may be wider than a phone and then scrolls; its text stays for those who cannot see it."""
    program = os.environ.get("MCPAUTH_SITE_SVGBOB") or sys.exit("error: run `make site`, which builds what draws the diagrams")
    command = [program, "--background", "transparent", "--fill-color", "currentColor",
               "--stroke-color", "currentColor", "--stroke-width", "1.2"]
    made = subprocess.run(command, input=match[1], capture_output=True, text=True, check=True).stdout
    # Markdown takes an empty line for the end of HTML.
    made = made.replace("\n", " ")
    return f'<figure class="diagram" role="img" aria-label="Diagram; the text around it says the same">{made}</figure>'


def picture(match):
    made = (ROOT / "docs" / match[1]).read_text()
    # What it was drawn by is for a test, and the style of one is that of all.
    made = re.sub(r"<metadata>.*?</metadata>\n", "", made, flags=re.DOTALL)
    return made.replace("\n", " ").strip()


def main():
    if sys.argv[1:2] == ["supports"]:
        sys.exit(0 if sys.argv[2] == "html" else 1)
    _, book = json.load(sys.stdin)
    found = list(chapters(book["items"]))
    pages = {f"docs/{chapter['source_path']}" for chapter in found if chapter.get("source_path")}
    links = Links(stand_ins(), pages, os.environ.get("MCPAUTH_SITE_REPOSITORY", ""))
    for chapter in found:
        if not chapter.get("source_path"):
            continue
        content = PICTURE.sub(picture, DIAGRAM.sub(drawn, chapter["content"]))
        page = f"docs/{chapter['source_path']}"
        chapter["content"] = links.of_page(page, content)
        if links.origins.get(page) == EXAMPLES:
            chapter["content"] += "".join(all_examples())
    json.dump(book, sys.stdout)


if __name__ == "__main__":
    main()
