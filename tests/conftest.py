# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Set-up that all tests share: limited in time, and on several ranks all go on or end together.

A test that takes longer than ``faulthandler_timeout`` (in pyproject.toml) hangs: every rank prints
where it is, with the name of the test among the frames, and the run ends.
"""

import gc
import importlib.metadata
import signal
import sys
from functools import cache, singledispatchmethod
from pathlib import Path
from types import FunctionType

# Loads the MPI library that DOLFINx and petsc4py link to, whichever a test module imports first.
from mpi4py import MPI

import pytest
from _pytest.runner import runtestprotocol

COMM = MPI.COMM_WORLD

# Setuptools reads those of all packages six times a form that is compiled, a third of its time.
importlib.metadata.entry_points = cache(importlib.metadata.entry_points)

#: Tests of what is in a checkout and not in the wheel are left out where only the wheel is.
CHECKOUT = Path(__file__).parent.parent
collect_ignore = [] if (CHECKOUT / "README.md").exists() else ["repository"]


def leave_out_of_garbage() -> None:
    """Later searches pass over what there is now, modules and caches, and take no time so."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    """Leave what was imported out of later searches for garbage."""
    # Python 3.13.0 and 3.13.1 keep, with what UFL calls these for, each mesh of a form that is new
    # to the cache of compiled ones; each has some of the 2048 communicators that MPICH has.
    for thing in gc.get_objects():
        if type(thing) is singledispatchmethod:
            thing._method_cache = None
    leave_out_of_garbage()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run a test in a frame of its name, all that a traceback written by faulthandler can tell."""

    def frame() -> None:
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        runtestprotocol(item, nextitem=nextitem)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        wait_for_all_ranks(item)

    # The traceback comes from pytest; then the other ranks have some seconds for theirs. The signal
    # has no handler, since none would run while a rank waits within MPI.
    limit = float(item.config.getini("faulthandler_timeout") or 0)
    signal.alarm(int(limit) + 5 if limit else 0)
    code = frame.__code__.replace(co_name=item.nodeid)
    FunctionType(code, globals(), closure=frame.__closure__)()
    signal.alarm(0)
    if nextitem and nextitem.path != item.path:
        leave_out_of_garbage()
    return True


def wait_for_all_ranks(item: pytest.Item) -> None:
    """Destroy together what tests have left to the garbage collector, and stop together."""
    if COMM.size == 1:
        return
    gc.collect()
    failed = COMM.allreduce(item.session.testsfailed, op=MPI.MAX)
    limit = item.config.getvalue("maxfail")
    if limit and failed >= limit and not item.session.shouldfail:
        item.session.shouldfail = f"stopping after {failed} failures on another rank"


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell a failure on one of several ranks at once: others may wait for this one, for ever."""
    if report.failed and COMM.size > 1:
        text = f"\nrank {COMM.rank}: failed {report.nodeid}\n{report.longreprtext}\n"
        print(text, file=sys.__stderr__, flush=True)


def pytest_enter_pdb() -> None:
    """Take all the time in the debugger."""
    signal.alarm(0)
