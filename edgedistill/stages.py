"""How stages are run: announced, timed, and named in their errors. Which stages there are is `pipeline`'s business."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from edgedistill.config import Request
from edgedistill.errors import EdgeDistillError, StageError
from edgedistill.store import Output, Store
from edgedistill.types import Progress, silent


class Watch(Protocol):
    """Who wants to know how far a build is."""

    def begin(self, stage: str) -> Progress:
        """A stage starts; what is returned is told how far it is."""

    def end(self, stage: str, seconds: float, *, cached: bool, note: str) -> None:
        """The stage is done; `cached` when there was nothing to do."""


class _Unwatched:
    def begin(self, stage: str) -> Progress:
        return silent

    def end(self, stage: str, seconds: float, *, cached: bool, note: str) -> None:
        pass


UNWATCHED: Watch = _Unwatched()
"""For callers who do not want to know."""


@dataclass(slots=True)
class Stage:
    """One running stage."""

    progress: Progress
    cached: bool = True
    note: str = ""

    def took(self, *outputs: Output | None) -> None:
        """Says which outputs the stage asked the store for; None is an output that was not needed."""
        self.cached = all(output is None or output.cached for output in outputs)


@dataclass(slots=True)
class Run:
    """One run of the pipeline: the request, where outputs are kept, who watches, and how long each stage took."""

    request: Request
    store: Store
    watch: Watch
    seconds: dict[str, float] = field(default_factory=dict)
    changed: bool = False

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Runs a stage. What it raises by accident becomes a StageError that says how to go on."""
        stage = Stage(self.watch.begin(name))
        started = time.monotonic()
        try:
            yield stage
        except EdgeDistillError:
            raise
        except Exception as error:  # tokenizers, onnxruntime and safetensors raise errors of no common kind
            raise StageError(
                f"stage {name!r} failed: {type(error).__name__}: {error}",
                hint=f"finished stages are kept in {self.store.root}; the same command goes on from there",
            ) from error
        took = time.monotonic() - started
        self.seconds[name] = 0.0 if stage.cached else took
        self.changed |= not stage.cached
        self.watch.end(name, took, cached=stage.cached, note=stage.note)
