# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Run inside the image by docker/check.sh: what docker/README.md promises, tried."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HOME = Path("/home/msnn")
PORT = 8888


def step(what: str) -> None:
    """Say what comes next."""
    print(f"--- {what}", flush=True)


def run(*command: str, timeout: float = 600.0) -> str:
    """Run a command in the home folder; its output, which is shown if it fails."""
    result = subprocess.run(
        command,
        cwd=HOME,
        timeout=timeout,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    if result.returncode:
        sys.exit(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout}")
    return result.stdout


step("user")
if os.getuid() == 0:
    sys.exit("The image runs as root; expected a user without rights.")
if not os.access(HOME, os.W_OK):
    sys.exit(f"The user cannot write to {HOME}.")

step("JupyterLab answers")
command = "jupyter lab --ip=0.0.0.0 --no-browser --ServerApp.root_dir=/home/msnn"
server = subprocess.Popen(
    [*command.split(), f"--port={PORT}", "--ServerApp.port_retries=0"],
    cwd=HOME,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
)
try:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api", timeout=5) as answer:
                print(json.load(answer))
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/lab", timeout=5) as answer:
                # Without the token it asks for one, and serves nothing else.
                if b"token" not in answer.read().lower():
                    sys.exit("JupyterLab let a visitor in without its token.")
            break
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                server.kill()
                sys.exit(f"JupyterLab does not answer:\n{server.stdout.read()}")
            time.sleep(0.5)
finally:
    server.terminate()
    server.wait(timeout=30)

step("the command msnn")
print(run("msnn", "--help")[:200])

step("a notebook runs from top to bottom")
notebooks = sorted(path.name for path in (HOME / "tutorials").glob("*.ipynb"))
print(f"{len(notebooks)} notebooks: {', '.join(notebooks)}")
run("jupyter", "execute", "tutorials/demo_learned_basis.ipynb")
if not list((HOME / "tutorials").glob("output/*.png")):
    sys.exit("The notebook left no picture behind.")

step("a trained model, as in README.md")
blocks = (HOME / "README.md").read_text().split("```sh\n")[1:]
(script,) = [b.split("```")[0] for b in blocks if b.startswith("cd work")]
(HOME / "work").mkdir(exist_ok=True)
print(run("sh", "-euc", script)[-600:])

step("two MPI ranks")
ranks = run("mpiexec", "-n", "2", "python", "demos/demo_spe10.py")
print(ranks[-600:])
