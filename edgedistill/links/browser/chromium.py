"""A headless Chromium of this system, driven by playwright, and what the system tells about its processes."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgedistill.errors import EngineCrashed
from edgedistill.runtime.system import ROOT, text

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page, Playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
"""Names of the browser; the first one that is there is taken."""
DRIVER = "playwright"
FEATURES = (
    "SpareRendererForSitePerProcess",
    "WebUIOmniboxPopup",
    "WebUIOmniboxAimPopup",
    "AimEnabled",
    "HttpsUpgrades",
    "MediaRouter",
    "NetworkTimeServiceQuerying",
    "OptimizationHints",
)
"""Off: a process kept ready for the next page, the pages behind the address bar, and what asks the network. What is
left has one process that renders, and that is the page's."""
START_S = 60.0
LEAVE_S = 20.0
REST_S = 2.0
AGAIN_S = 0.05
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulation:
    """What a page believes of the screen, and how many times slower its main thread is made."""

    context: Mapping[str, Any]
    slower: float = 1.0


def program() -> Path | None:
    """The browser, if one is there."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    return None if found is None else Path(found)


def spent_s(root: Path = ROOT) -> float:
    """Processor time of this process and of all that it started, in seconds: of the driver, and of its browser.

    Of those that have ended, what the system adds to who waited for them (proc_pid_stat(5): fields 14 to 17).
    """
    ticks, started = {}, defaultdict(list)
    for file in root.glob("proc/[0-9]*/stat"):
        if fields := (text(file) or "").rpartition(")")[2].split():  # behind the name, which may hold anything
            process = int(file.parent.name)
            ticks[process] = sum(map(int, fields[11:15]))
            started[int(fields[1])].append(process)
    own, found = os.getpid(), 0
    waiting = [own]
    while waiting:
        process = waiting.pop()
        found += ticks.get(process, 0)
        waiting += started[process]
    return found / os.sysconf("SC_CLK_TCK")


def driver_is_there() -> bool:
    """Whether the package that drives the browser is installed."""
    return importlib.util.find_spec(DRIVER) is not None


class Tab:
    """A page in a process of its own."""

    def __init__(self, page: Page, browser: Browser) -> None:
        self._page = page
        self._browser = browser
        self._found: int | None = None

    async def ask(self, expression: str) -> Any:
        """What an expression in the page comes to; promises are waited for."""
        return await self._page.evaluate(expression)

    @property
    def version(self) -> str:
        """Of the browser."""
        return self._browser.version

    @property
    def threads(self) -> int:
        """Of the engine: its workers, and the page itself."""
        return 1 + len(self._page.workers)

    async def renderer(self) -> int | None:
        """The process of the page; None where it cannot be told from others.

        That of the page before goes on for a while after it was closed, on a busy machine for seconds.
        """
        until = time.monotonic() + LEAVE_S
        while self._found is None and time.monotonic() < until:
            renderers = list(await self._renderers())
            if len(renderers) == 1:
                self._found = renderers[0]
            else:
                await asyncio.sleep(AGAIN_S)
        return self._found

    async def cpu_s(self) -> float:
        """Processor time of the page's process until now, in seconds; of all pages where it is not known."""
        spent = await self._renderers()
        return sum(spent.values()) if self._found is None else spent.get(self._found, 0.0)

    async def _renderers(self) -> Mapping[int, float]:
        """Processor time of every process that has a page, in seconds."""
        return {int(one["id"]): float(one["cpuTime"]) for one in await self._processes() if one["type"] == "renderer"}

    async def _processes(self) -> Sequence[Mapping[str, Any]]:
        session = await self._browser.new_browser_cdp_session()
        try:
            told = await session.send("SystemInfo.getProcessInfo")
        finally:
            await session.detach()
        found: Sequence[Mapping[str, Any]] = told["processInfo"]
        return found


class Chromium:
    """Starts with its first page, and takes another process for each."""

    def __init__(self, emulation: Emulation) -> None:
        self._emulation = emulation
        self._loop: _Loop | None = None
        self._driver: asyncio.Task[Playwright] | None = None
        self._visiting: asyncio.Task[Any] | None = None
        self._browser: Browser | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def visit(self, url: str, work: Callable[[Tab], Awaitable[Found]], *, timeout_s: float, what: str) -> Found:
        """Opens a page, does some work with it and closes it.

        Args:
            what: is done there, for messages.

        Raises:
            EngineCrashed: the browser did not start, the page failed or died, or it took too long.
        """
        from playwright.async_api import Error

        self._loop = self._loop or _Loop()
        try:
            return self._loop.run(self._visit(url, work, timeout_s))
        except TimeoutError as error:
            raise EngineCrashed(
                f"{what} did not finish in {timeout_s:.0f} s", hint="is the machine busy, or the model too large?"
            ) from error
        except Error as error:
            raise EngineCrashed(f"{what} failed: {_reason(error.message)}") from error
        except BaseException:
            self.close()
            raise
        finally:
            if self._browser is None or not self._browser.is_connected():
                self.close()

    async def _visit(self, url: str, work: Callable[[Tab], Awaitable[Found]], timeout_s: float) -> Found:
        self._visiting = asyncio.current_task()
        self._browser = self._browser or await self._start()
        context = await self._browser.new_context(**self._emulation.context)
        try:
            async with asyncio.timeout(timeout_s):
                page = await context.new_page()
                if self._emulation.slower > 1:
                    session = await context.new_cdp_session(page)
                    await session.send("Emulation.setCPUThrottlingRate", {"rate": self._emulation.slower})
                await page.goto(url)
                return await work(Tab(page, self._browser))
        finally:
            await self._leave(context)

    async def _leave(self, context: BrowserContext) -> None:
        """Closes a page, with its process; a browser that cannot do that is ended."""
        from playwright.async_api import Error

        try:
            await asyncio.wait_for(context.close(), LEAVE_S)
        except (Error, TimeoutError):
            await self._end()

    async def _start(self) -> Browser:
        from playwright.async_api import async_playwright

        # A task of its own, for who stops now: a driver that is half started can be neither used nor ended.
        self._driver = self._driver or asyncio.create_task(async_playwright().start())
        playwright = await asyncio.shield(self._driver)
        return await playwright.chromium.launch(
            executable_path=program(),
            args=[f"--disable-features={','.join(FEATURES)}"],
            chromium_sandbox=os.geteuid() != 0,  # it refuses to run for root in one
            # One that is killed leaves its folders behind, so it has one for all of them.
            env={**os.environ, "TMPDIR": self._folder()},
            timeout=START_S * 1e3,
        )

    def _folder(self) -> str:
        self._temporary = self._temporary or tempfile.TemporaryDirectory(
            prefix="edgedistill-", ignore_cleanup_errors=True
        )
        return self._temporary.name

    def close(self) -> None:
        """Ends the browser and its driver."""
        if self._loop is not None:
            self._loop.run(self._end())
            self._loop.close()
        self._loop = None
        if self._temporary is not None:
            self._temporary.cleanup()
        self._temporary = None

    async def _end(self) -> None:
        browser, driver, visit = self._browser, self._driver, self._visiting
        self._browser = self._driver = self._visiting = None
        with contextlib.suppress(Exception):  # both may be dead already
            if browser is not None:
                await browser.close()
        if visit is not None and visit is not asyncio.current_task():
            visit.cancel()  # a stop has left it where it was
            await asyncio.wait({visit}, timeout=LEAVE_S)
        with contextlib.suppress(Exception):
            if driver is not None:
                await (await asyncio.wait_for(driver, START_S)).stop()


class _Loop:
    """An event loop in a thread of its own, so that a signal raises nothing in the middle of the driver's messages."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A stop leaves questions to a page that is gone; what matters of them is raised in `run` already.
        self._loop.set_exception_handler(lambda *_: None)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Found]) -> Found:
        """Waits for a coroutine to end there. A signal ends the waiting, not the coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """Ends what is left in it, and the thread."""
        self.run(self._cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel(self) -> None:
        """Gives what has to do with a driver that died some time to end by itself."""
        if rest := asyncio.all_tasks() - {asyncio.current_task()}:
            _, late = await asyncio.wait(rest, timeout=REST_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def _reason(message: str) -> str:
    """The first line of a driver's message, without the name of its own function."""
    first = message.strip().splitlines()[0] if message.strip() else "it said nothing"
    return first.partition(": ")[2] if first.startswith(("Page.", "Browser", "CDPSession.")) else first
