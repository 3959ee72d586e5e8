"""Processes that are killed again and again: forks of one that has imported what they need.

To import torch and transformers takes longer than what these processes live for.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess as Fork
from pathlib import Path
from typing import Any

import psutil

CONTEXT = multiprocessing.get_context("forkserver")


def start(preloaded: Sequence[str], folder: Path, what: Callable[..., Any], *arguments: Any) -> Fork:
    """A process in a folder, that says nothing.

    Args:
        preloaded: the modules it needs, beside that of `what`. Where a server runs already, they are those that its
            first process needed, and others are imported by each.
    """
    CONTEXT.set_forkserver_preload([what.__module__, *preloaded])
    child = CONTEXT.Process(target=_alone, args=(folder, what, *arguments))
    child.start()
    return child


def kill(child: Fork) -> None:
    """Kills a process and all that it has started, as a power cut does."""
    family = psutil.Process(child.pid)
    for one in (family, *family.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    child.join()


def _alone(folder: Path, what: Callable[..., Any], *arguments: Any) -> None:
    gc.freeze()  # accelerate collects garbage after each training, and need not look at what was imported
    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    what(*arguments)
