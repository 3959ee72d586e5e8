"""A bundle's runtime in an emulated process, with the emulator left out of the process's memory.

    python guest.py -m runtime measure --what memory …

/proc/self/smaps is the host's and tells of everything in the process. /proc/self/maps is made by the emulator for the
program, and tells of the program's own pieces; their addresses are the host's, as the emulator puts a 64-bit program
where it wants to be. What is in both is the program's memory.

It runs in the emulated Python and takes nothing but the standard library and the bundle's runtime.
"""

import importlib
import runpy
import sys
from bisect import bisect, bisect_left
from pathlib import Path

SPLIT = {"Rss:": "rss", "Anonymous:": "anonymous", "Swap:": "swap"}


def resident(*_: object) -> dict[str, int] | None:
    """Bytes of the program in memory, split as `runtime.measure` does it; None where nothing can be told apart."""
    # The host's first: what the program is given meanwhile is then in its own pieces, and counts for nothing yet.
    told = Path("/proc/self/smaps").read_text(encoding="utf-8")
    return counted(told, Path("/proc/self/maps").read_text(encoding="utf-8"))


def counted(smaps: str, maps: str) -> dict[str, int] | None:
    """The memory of the host's pieces that lies in the program's.

    A piece of the host may be larger than the program's, where the heap grew between the two readings, or where memory
    of the emulator lies behind it. Of such a piece that share counts which is the program's.
    """
    own = sorted(_place(line) for line in maps.splitlines())
    starts = [start for start, _ in own]
    found = dict.fromkeys(SPLIT.values(), 0.0)
    share = 0.0
    for line in smaps.splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            start, end = _place(line)
            near = own[max(0, bisect(starts, start) - 1) : bisect_left(starts, end)]
            both = sum(max(0, min(end, last) - max(start, first)) for first, last in near)
            share = both / (end - start)
        elif words[0] in SPLIT:
            found[SPLIT[words[0]]] += int(words[1]) * 1024 * share
    if not found["rss"]:
        return None
    rss, anonymous, swap = (round(found[name]) for name in SPLIT.values())
    return {"rss": rss, "anonymous": anonymous, "swap": swap, "file": rss - anonymous, "peak": rss + swap}


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
