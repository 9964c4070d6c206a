# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Check the built documentation: links, assets, and how the pages look in a browser.

    python docs/check.py [FOLDER]     after `make docs`; FOLDER is docs/_build/html by default

- No link within the site leads nowhere, no anchor is missing, and nothing is fetched from
  elsewhere: scripts, styles, fonts, pictures.
- In headless Chromium, at the width of a phone and of a desktop: nothing in the console, no
  request that fails or goes to another host, no page wider than the window, no formula that
  MathJax refuses (``look.html``). Without Chromium this part is left out, and said to be; CHROMIUM
  names another program.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
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


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and takes one message."""

    told: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def do_POST(self) -> None:
        """Take the message."""
        self.told.put(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def check_pages(site: Path, pages: list[str], chromium: str) -> list[str]:
    """Problems that Chromium has with the pages."""
    handler = functools.partial(Server, directory=str(site))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        tempfile.NamedTemporaryFile("w", dir=site, suffix=".html") as look,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        tempfile.TemporaryFile("w+") as log,
    ):
        look.write((DOCS / "look.html").read_text().replace("PAGES", json.dumps(pages)))
        look.flush()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += ["--disable-dev-shm-usage", "--enable-logging=stderr"]
        # As without a network: no other host has an address.
        command += ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
        command += [f"--user-data-dir={profile}", "--remote-debugging-port=0"]
        command += [f"http://127.0.0.1:{server.server_address[1]}/{Path(look.name).name}"]
        process = subprocess.Popen(command, stderr=log, stdout=log)

        def ended() -> None:
            text = f"{chromium} ended early, with status {process.wait()}"
            Server.told.put(json.dumps([text]).encode())

        threading.Thread(target=ended).start()
        try:
            problems: list[str] = json.loads(Server.told.get(timeout=500))
        except queue.Empty:
            problems = [f"{chromium} was not through with the pages after 500 s"]
        process.terminate()
        server.shutdown()
        log.seek(0)
        return problems + re.findall(r"CONSOLE.*", log.read())


def main() -> int:
    """Check, print what is wrong, and return the exit code."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else DOCS / "_build" / "html").resolve()
    if not (site / "index.html").exists():
        print(f"There is no site in {site}: run make docs first.")
        return 2
    problems = check_files(site)
    pages = sorted(
        str(path.relative_to(site))
        for path in site.rglob("*.html")
        if "_static" not in path.relative_to(site).parts
    )
    print(f"{len(pages)} pages: {len(problems)} problems with links and files")
    named = os.environ.get("CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        print("Chromium is not there (on Debian: apt-get install chromium): pages not looked at.")
    else:
        # On a busy machine a page may not come in time; what is wrong with it is so twice.
        seen = check_pages(site, pages, chromium) and check_pages(site, pages, chromium)
        print(f"{len(pages)} pages in Chromium: {len(seen)} problems")
        problems += seen
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
