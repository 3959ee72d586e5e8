"""A bundle in a page: onnxruntime-web in a headless Chromium of this machine, from the text to the answer.

The model runs in WebAssembly with SIMD, and with as many threads as the cell asks for. Model, tokenizer and engine are
served to it by this machine alone; `page/` holds what the page does, and mirrors the bundle's runtime.

What a page cannot know is null in its samples: its clock, its heat and what energy it took. What this machine knows of
it is there: processor time and memory of the page's process, whether it waited for a core, and how busy other programs
kept the cores.

`browser://mobile` is the same browser made to look like a phone: its screen, its touch, its main thread four times
slower. That is no phone: its memory has no other speed, its processor no other instructions, and the workers that are
the engine's threads are not slowed at all. So it is asked for answers and memory, marked as emulated, and never for
times.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from edgedistill.errors import EngineCrashed, InputError, StageError
from edgedistill.links import local
from edgedistill.links.browser import chromium, packages
from edgedistill.links.browser.chromium import Chromium, Emulation, Tab
from edgedistill.links.browser.content import START, Content, downloads, files
from edgedistill.links.browser.server import Server
from edgedistill.links.link import LONGEST_S, TIMEOUT_PER_ROW_S, Facts, Link, Problem, refusal
from edgedistill.runtime import conditions, measure
from edgedistill.runtime.system import ROOT, text
from edgedistill.types import Cell, Kind, What

DESKTOP = Emulation(context={"viewport": {"width": 1280, "height": 800}})
PHONE = Emulation(
    context={
        "viewport": {"width": 412, "height": 915},
        "device_scale_factor": 2.625,
        "is_mobile": True,
        "has_touch": True,
    },
    slower=4.0,
)
UNKNOWN = {"clock_hz": None, "max_clock_hz": None, "governor": None, "temperature_c": None, "throttled": None}
"""Conditions, which a page does not tell."""
LOOK_S = 300.0
SHOWN = 60
Found = TypeVar("Found")


class Browser(Link):
    """Chromium on this machine. It starts with the first page, and each cell has a page in a process of its own."""

    can: ClassVar[frozenset[What]] = frozenset({"timing", "memory", "answers"})
    emulation: ClassVar[Emulation] = DESKTOP
    name: ClassVar[str] = "Chromium on this machine"

    def __init__(self, address: str) -> None:
        super().__init__(address, self.name)
        self._chromium = Chromium(self.emulation)

    def look(self, bundle: Path | None = None) -> Facts:
        """Looks for the browser and what it needs, and loads the bundle in it.

        Raises:
            StageError: something is missing, the bundle is of a kind that no page runs, or its model does not load.
        """
        content = None if bundle is None else Content(bundle)
        problems = [*missing(), *([] if content is None else content.problems())]
        if not problems:
            try:
                return self._visit(content, (), Cell(what="answers"), _facts, timeout_s=LOOK_S, what="loading it")
            except EngineCrashed as error:
                remedy = "another recipe may have operators that onnxruntime-web has: edgedistill export --recipe NAME"
                problems.append(Problem(what=f"in a page, {error.message}", remedy=error.hint or remedy))
        raise refusal(self.title, problems)

    def measure(self, bundle: Path, texts: Sequence[Any], cell: Cell) -> Mapping[str, Any]:
        """Runs one cell in a page of its own.

        Raises:
            InputError: the cell is of a kind that this link cannot do.
            StageError: browser or packages are missing.
            EngineCrashed: the browser did not start, the page failed or died, or it took too long.
        """
        if cell.what not in self.can:
            raise InputError(
                f"{self.title} is not asked for {cell.what}", hint=f"it can: {', '.join(sorted(self.can))}"
            )
        if problems := missing():
            raise StageError(problems[0].what, hint=problems[0].remedy)
        work = {"timing": _timing, "memory": _memory, "answers": _answers}[cell.what]
        limit = max(LONGEST_S, TIMEOUT_PER_ROW_S * len(texts))
        return self._visit(
            Content(bundle), texts, cell, work, timeout_s=limit, what=f"measuring {bundle.name} in a page"
        )

    def _visit(
        self,
        content: Content | None,
        texts: Sequence[Any],
        cell: Cell,
        work: Callable[[Tab, Content | None], Awaitable[Found]],
        *,
        timeout_s: float,
        what: str,
    ) -> Found:
        with Server(files(content, texts, cell)) as server:
            return self._chromium.visit(
                server.origin + START, lambda tab: work(tab, content), timeout_s=timeout_s, what=what
            )

    def close(self) -> None:
        """Ends the browser."""
        self._chromium.close()


class Mobile(Browser):
    """The same browser with the screen of a phone. No time is taken from it: see the head of this module."""

    kind: ClassVar[Kind] = "emulated"
    can: ClassVar[frozenset[What]] = frozenset({"memory", "answers"})
    emulation: ClassVar[Emulation] = PHONE
    name: ClassVar[str] = "Chromium with a phone's screen"


BROWSERS: Mapping[str, type[Browser]] = {"": Browser, "mobile": Mobile}


def browser(address: str) -> Browser:
    """The link of `browser`, `browser://` or `browser://mobile`.

    Raises:
        InputError: it is another browser.
    """
    name = address.partition("://")[2]
    if name not in BROWSERS:
        raise InputError(
            f"{address[:SHOWN]!r} is no browser that can be measured",
            hint="browser:// is Chromium on this machine, and browser://mobile the same with a phone's screen",
        )
    return BROWSERS[name](address)


def missing() -> list[Problem]:
    """What this machine lacks to measure in a page."""
    found = []
    if not chromium.driver_is_there():
        found.append(Problem(what="playwright is not installed", remedy='pip install "edgedistill[browser]"'))
    if chromium.program() is None:
        found.append(
            Problem(
                what="there is no Chromium",
                remedy=f"install one as {', '.join(chromium.PROGRAMS[:-1])} or {chromium.PROGRAMS[-1]}, such as with "
                "apt install chromium",
            )
        )
    if (lacking := packages.missing()) is not None:
        found.append(Problem(what=lacking.reason, remedy=lacking.remedy or packages.SETUP))
    return found


async def _facts(tab: Tab, content: Content | None) -> Facts:
    await tab.ask("page.begun")
    told = await tab.ask("page.ready()")
    if content is not None:
        await tab.ask("page.loaded()")
    return {
        "machine": f"WebAssembly on {local.processor()}",
        "system": f"Chromium {tab.version}",
        "engine": f"onnxruntime-web {packages.wanted()['onnxruntime-web']}",
        "python": None,
        "cores": await tab.ask("navigator.hardwareConcurrency"),
        "ram_bytes": None,
        "packages": packages.wanted(),
        "isolated": told["isolated"],
        "clock_step_ms": told["clock_step_ms"],
        "download_bytes": downloads(content),
    }


async def _timing(tab: Tab, _: Content | None) -> Mapping[str, Any]:
    """The page goes up to the timed part on its own as soon as it is loaded: nobody waits for anybody."""
    await tab.renderer()  # while the page warms up
    prepared = await tab.ask("page.begun")
    before = await _clocks(tab)
    taken = await tab.ask("page.timed()")
    after = await _clocks(tab)
    finished = await tab.ask("page.finish()")
    return {
        **prepared,
        "latency_ms": taken["latency_ms"],
        "ended_by": taken["ended_by"],
        "throughput_rows_s": finished["throughput_rows_s"],
        "reference_ms": finished["reference_ms"],
        "anchors_ms": [prepared["anchors_ms"], taken["after_ms"]],
        **_silent(tab),
        **_between(before, after),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clocks:
    """Seconds until now.

    Attributes:
        page: processor time of the page's process; `ours`: of this process and all that it started.
        busy: of all cores together; None where the system does not tell.
        waits: nanoseconds that each thread of the page's process had no core.
        told: clock, heat and throttling of this machine.
    """

    clock: float
    page: float
    ours: float
    busy: float | None
    waits: Mapping[str, int] | None
    told: Mapping[str, Any]


async def _clocks(tab: Tab) -> _Clocks:
    process = await tab.renderer()
    page = await tab.cpu_s()
    return _Clocks(
        clock=time.perf_counter(),
        page=page,
        ours=chromium.spent_s(),
        busy=conditions.busy_s(text(ROOT / "proc/stat")),
        waits=None if process is None else conditions.waits(process=process),
        told=conditions.snapshot(),
    )


def _between(before: _Clocks, after: _Clocks) -> Mapping[str, Any]:
    """What this machine did in the timed part, with the names that the runtime gives it."""
    seconds = max(1e-9, after.clock - before.clock)
    return {
        "seconds": seconds,
        "cpu_share": (after.page - before.page) / seconds,
        "foreign_cores": conditions.foreign_cores(before.busy, after.busy, after.ours - before.ours, seconds),
        "waited_share": conditions.waited(before.waits, after.waits, seconds),
        "conditions": [before.told, after.told],
    }


async def _memory(tab: Tab, _: Content | None) -> Mapping[str, Any]:
    """Of the page's process before the model is loaded, and after every text was answered."""
    await tab.ask("page.begun")
    await tab.ask("page.ready()")
    process = await tab.renderer()
    before = None if process is None else measure.resident(process=process)
    await tab.ask("page.loaded()")
    await tab.ask("page.answers()")
    after = None if process is None else measure.resident(process=process)
    if before is None or after is None:
        reason = "this system does not tell which process is the page's, or what it holds"
        return {"engine": None, "model": None, "process": None, "reason": reason, **_silent(tab)}
    return {
        "engine": before,
        "model": {key: after[key] - before[key] for key in after},
        "process": after,
        **_silent(tab),
    }


async def _answers(tab: Tab, content: Content | None) -> Mapping[str, Any]:
    await tab.ask("page.begun")
    await tab.ask("page.ready()")
    await tab.ask("page.loaded()")
    kind = "spans" if content is not None and content.reads else "logits"
    return {kind: await tab.ask("page.answers()"), **_silent(tab)}


def _silent(tab: Tab) -> Mapping[str, Any]:
    """The conditions: the threads that there were, and null for what a page does not tell."""
    return {
        "threads": tab.threads,
        "foreign_cores": None,
        "waited_share": None,
        "energy_j": None,
        "energy_reason": "a page does not know what it takes",
        "conditions": [UNKNOWN, UNKNOWN],
    }
