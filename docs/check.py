# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Check the built documentation: links, assets, and how the pages look in a browser.

    python docs/check.py [FOLDER]     after `make docs`; FOLDER is docs/_build/html by default

- No link within the site leads nowhere, no anchor is missing, and nothing is fetched from
  elsewhere: scripts, styles, fonts, pictures.
- In headless Chromium, at the width of a phone and of a desktop: no error in the console, no
  request to another host, no page wider than the window, no formula that MathJax refuses.
  Pictures of the pages are written to ``docs/_build/screenshots``. Without Chromium this part is
  left out, and said to be.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

DOCS = Path(__file__).resolve().parent
#: Attributes that make a browser fetch something.
FETCHED = {
    "audio": ("src",),
    "iframe": ("src",),
    "img": ("src", "srcset"),
    "link": ("href",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
}
#: Kinds of <link> that are only words.
WORDS = {"canonical", "index", "next", "prev", "search", "author", "license", "genindex"}


class Page(HTMLParser):
    """Links, fetched files and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Sort the attributes of a tag."""
        values = {key: value or "" for key, value in attrs}
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        words = tag == "link" and set(values.get("rel", "").split()) & WORDS
        for key in FETCHED.get(tag, ()):
            if values.get(key):
                (self.links if words else self.fetched).append(values[key])


def check_files(site: Path) -> list[str]:
    """Problems that can be seen without a browser."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    problems = []
    for path, page in sorted(pages.items()):
        name = path.relative_to(site)
        base = path.as_uri()
        for link in page.fetched:
            if urlsplit(link).scheme not in ("", "data") or link.startswith("//"):
                problems.append(f"{name} fetches {link}, which is not part of the site")
        for link in page.links + page.fetched:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            target = Path(unquote(urlsplit(urljoin(base, link)).path))
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                problems.append(f"{name} links to {link}, which is not there")
            elif parts.fragment and target in pages:
                if unquote(parts.fragment) not in pages[target].anchors:
                    problems.append(f"{name} links to {link}: there is no such anchor")
    for path in site.rglob("*.css"):
        for found in re.findall(
            r"""(?:@import\s+|url\()["']?((?:https?:)?//[^"')]+)""",
            path.read_text(encoding="utf-8"),
        ):
            problems.append(f"{path.relative_to(site)} fetches {found}")
    return problems


def main() -> int:
    """Check, print what is wrong, and return the exit code."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else DOCS / "_build" / "html").resolve()
    if not (site / "index.html").exists():
        print(f"There is no site in {site}: run make docs first.")
        return 2
    problems = check_files(site)
    pages = sorted(
        str(path.relative_to(site).with_suffix(""))
        for path in site.rglob("*.html")
        if "_static" not in path.relative_to(site).parts
    )
    print(f"{len(pages)} pages: {len(problems)} problems with links and files")
    # Beside this file; not needed to check links.
    import browser

    program = browser.find_chromium()
    if program is None:
        print("Chromium is not there (on Debian: apt-get install chromium): pages not looked at.")
    else:
        folder = DOCS / "_build" / "screenshots"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with browser.serve(site) as home, browser.start(program) as address:
            seen = asyncio.run(browser.look(address, home, pages, folder))
        print(f"{len(pages)} pages in Chromium: {len(seen)} problems; pictures in {folder}")
        problems += seen
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
