"""links FOLDER: looks whether all that the pages of a built site link to within the site is there: pages, anchors, pictures and
styles. Links to other sites are not followed.
"""

import posixpath
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.anchors, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def main():
    folder = Path(sys.argv[1])
    # The page for what is not found has its links from the root of a server, and print.html repeats all others.
    pages = {page.relative_to(folder).as_posix(): Page(page.read_text()) for page in folder.rglob("*.html")
             if page.name not in ("404.html", "print.html")}
    problems, checked = [], 0
    for name, page in sorted(pages.items()):
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path))) if parts.path else name
            checked += 1
            if not (folder / target).is_file():
                problems.append(f"error: {name} links to {link}, which is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                problems.append(f"error: {name} links to {link}, and {target} has no such heading")
    if problems:
        sys.exit("\n".join(sorted(set(problems))))
    if not checked:
        sys.exit(f"error: {folder} has no pages with links")
    print(f"{checked} links on {len(pages)} pages lead where they say")


if __name__ == "__main__":
    main()
