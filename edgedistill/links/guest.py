"""A bundle's runtime in an emulated process, with the emulator left out of the process's memory.

    python guest.py -m runtime measure --what memory …

/proc/self/smaps is the host's and tells of everything in the process. /proc/self/maps is made by the emulator for the
program, and tells of the program's own pieces; their addresses are the host's, as the emulator puts a 64-bit program
where it wants to be. The pieces that are in both are the program's memory.

It runs in the emulated Python and takes nothing but the standard library and the bundle's runtime.
"""

import importlib
import runpy
import sys
from bisect import bisect
from pathlib import Path

SPLIT = {"Rss:": "rss", "Anonymous:": "anonymous", "Swap:": "swap"}


def resident(*_: object) -> dict[str, int] | None:
    """Bytes of the program in memory, split as `runtime.measure` does it; None where nothing can be told apart."""
    own = sorted(_place(line) for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines())
    starts = [start for start, _ in own]
    found = dict.fromkeys(SPLIT.values(), 0)
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            start, end = _place(line)
            before = bisect(starts, start) - 1
            inside = before >= 0 and end <= own[before][1]
        elif inside and words[0] in SPLIT:
            found[SPLIT[words[0]]] += int(words[1]) * 1024
    if not found["rss"]:
        return None
    return {**found, "file": found["rss"] - found["anonymous"], "peak": found["rss"] + found["swap"]}


def _place(line: str) -> tuple[int, int]:
    start, _, end = line.split()[0].partition("-")
    return int(start, 16), int(end, 16)


def main() -> None:
    """Runs the module that the arguments name."""
    sys.path[0] = str(Path.cwd())
    module = sys.argv[2]
    importlib.import_module(f"{module}.measure").resident = resident  # type: ignore[attr-defined]
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
