# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Headless Chromium, driven over its debugging protocol, that looks at the pages."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WIDTHS = {"phone": 390, "desktop": 1280}
#: Pages that a reader meets first, and those with formulas, tables, pictures and long names.
SHOWN = ("index", "install", "quickstart", "mathematics", "choose", "gallery", "reference")
SHOWN += ("benchmarks", "results", "parallel", "bases")
SHOWN += ("demos/demo_spe10", "demos/demo_learned_basis")


def find_chromium() -> str | None:
    """Chromium or Chrome, if there is one; CHROMIUM names it."""
    named = os.environ.get("CHROMIUM")
    for name in [named] if named else ["chromium", "chromium-browser", "google-chrome"]:
        if found := shutil.which(name):
            return found
    return None


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serve(site: Path) -> Iterator[str]:
    """The address of the site while it is served on this machine."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@contextlib.contextmanager
def start(program: str) -> Iterator[str]:
    """The address of the debugger of a headless Chromium."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--disable-background-networking", "--disable-sync", "--no-first-run"),
            *("--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
        ]
        # A site that is offline: no other host has an address.
        options.insert(0, "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1")
        process = subprocess.Popen(
            [program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            file = Path(profile) / "DevToolsActivePort"
            for _ in range(600):
                with contextlib.suppress(OSError, ValueError):
                    port, path = file.read_text().split()
                    break
                if process.poll() is not None:
                    raise RuntimeError(f"{program} ended with code {process.returncode}.")
                time.sleep(0.1)
            else:
                raise RuntimeError(f"{program} did not start within a minute.")
            yield f"ws://127.0.0.1:{port}{path}"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


class Debugger:
    """Commands to Chromium, and what it reports, over its debugging protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.number = socket, 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        number = self.number
        await self.socket.write_message(json.dumps(message))
        while True:
            answer = await self.read()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    async def read(self) -> dict[str, Any]:
        """The next message; events are kept."""
        text = await asyncio.wait_for(self.socket.read_message(), 120)
        if text is None:
            raise RuntimeError("Chromium has closed the connection.")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        return answer["result"].get("value")


#: Waits for MathJax, then measures the page.
MEASURE = """(async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map(i => i.decode().catch(() => {})));
  const broken = [...document.images].filter(i => !i.naturalWidth).map(i => i.src);
  const left = [...document.querySelectorAll("span.math, div.math")]
    .filter(e => !e.querySelector("mjx-container")).length;
  return {
    width: document.documentElement.scrollWidth,
    height: document.documentElement.scrollHeight,
    refused: document.querySelectorAll("mjx-merror, [data-mjx-error]").length,
    broken, left,
  };
})()"""


async def look(address: str, site: str, pages: list[str], folder: Path) -> list[str]:
    """Visit pages at every width; write pictures, return problems."""
    from tornado.websocket import websocket_connect

    socket = await websocket_connect(address, max_message_size=2**28)
    chrome = Debugger(socket)
    target = await chrome.call("Target.createTarget", url="about:blank")
    attached = await chrome.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
    chrome.session = attached["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        await chrome.call(f"{domain}.enable")
    problems = []
    for kind, width in WIDTHS.items():
        await chrome.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844 if kind == "phone" else 900,
            deviceScaleFactor=1,
            mobile=kind == "phone",
        )
        for page in pages:
            chrome.events.clear()
            await chrome.call("Page.navigate", url=f"{site}/{page}.html")
            while not any(e["method"] == "Page.loadEventFired" for e in chrome.events):
                await chrome.read()
            size = await chrome.evaluate(MEASURE) or {}
            told = [f"{page} ({kind}): {text}" for text in complaints(chrome.events, site)]
            if size.get("width", 10**6) > width:
                told.append(f"{page} ({kind}): {size.get('width')} wide in a window of {width}")
            if size.get("refused") or size.get("left"):
                told.append(f"{page} ({kind}): formulas not set: {size}")
            told += [f"{page} ({kind}): broken picture {src}" for src in size.get("broken", [])]
            problems += told
            if page in SHOWN or told:
                height = min(size.get("height", 900), 6000)
                clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
                shot = await chrome.call(
                    "Page.captureScreenshot", clip=clip, captureBeyondViewport=True
                )
                file = folder / f"{page.replace('/', '-')}-{kind}.png"
                file.write_bytes(base64.b64decode(shot["data"]))
    socket.close()
    return problems


def complaints(events: list[dict[str, Any]], site: str) -> Iterator[str]:
    """Errors in the console, and requests to other hosts."""
    for event in events:
        method, data = event["method"], event["params"]
        if method == "Runtime.exceptionThrown":
            yield f"exception {data['exceptionDetails'].get('text')}"
        elif method == "Runtime.consoleAPICalled" and data["type"] == "error":
            yield f"console: {[a.get('value') for a in data['args']]}"
        elif method == "Log.entryAdded" and data["entry"]["level"] == "error":
            entry = data["entry"]
            # Browsers ask for it of themselves.
            if not entry.get("url", "").endswith("/favicon.ico"):
                yield f"log: {entry['text']} {entry.get('url', '')}"
        elif method == "Network.requestWillBeSent":
            url = data["request"]["url"]
            if not url.startswith((site, "data:", "blob:", "about:")):
                yield f"request to {url}"
