"""What a board is and how fast it is: facts and figures of the machine that this runs on, as one JSON object.

    python -m runtime.probe --seconds 20 --models FOLDER

It stands alone: the standard library, numpy and onnxruntime where they are there. FOLDER holds f32.onnx and int8.onnx,
each one product of the input `a`, float32 [rows, width], with constant weights [width, width]; see `OPERATIONS`. The
object has `facts`, and for each of read_bytes_s, f32_ops_s, int8_ops_s and storage_bytes_s either
{"values": [one a repeat], "by": what computed it} or {"reason": why there is no figure}.
"""

import argparse
import contextlib
import ctypes
import importlib
import importlib.metadata
import json
import mmap
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPEATS = 5
ROWS, WIDTH = 128, 512
"""Of the products: as many rows as a long text has pieces, as wide as small encoders are; they fit most caches."""
OPERATIONS = 2 * ROWS * WIDTH * WIDTH
"""A multiply and an add count as two; what the engine does around the product is in the time and not in the count."""
READ_BYTES = 256 * 2**20
"""Of all cores together, where memory allows and no cache comes near it."""
TIMES_THE_CACHES = 4
FILE_BYTES = 64 * 2**20
BLOCK_BYTES = 2**20
STILL_CACHED = 0.05
"""Share of a file that the system may keep in memory although it was told to drop it."""
PACKAGES = ("numpy", "tokenizers", "onnxruntime", "llama-cpp-python", "onnxruntime-genai")
# So that the products of numpy are of one core, too. BLAS reads these when it is loaded.
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Found = dict[str, Any]


def main() -> None:
    """Prints the object."""
    parser = argparse.ArgumentParser(prog="python -m runtime.probe")
    parser.add_argument("--seconds", type=float, default=20.0, help="for all of it, about")
    parser.add_argument("--models", type=Path, required=True, help="the folder with f32.onnx and int8.onnx")
    options = parser.parse_args()
    for name in ONE_THREAD:
        os.environ[name] = "1"
    here, window = Path.cwd(), options.seconds / (4 * (REPEATS + 1))
    known = facts(here)
    found = {
        "facts": known,
        "read_bytes_s": told(read, window, known["cores"], known["available_bytes"]),
        "f32_ops_s": told(f32, window, options.models),
        "int8_ops_s": told(int8, window, options.models),
        "storage_bytes_s": told(storage, window, here),
    }
    sys.stdout.write(json.dumps(found))


def told(measure: Callable[..., Found], *arguments: Any) -> Found:
    """A figure, or why there is none: what one engine of a board cannot do is no reason to lose the other figures."""
    try:
        return measure(*arguments)
    except Exception as error:  # engines raise errors of no common kind
        return {"reason": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def repeated(once: Callable[[], float], window: float) -> list[float]:
    """Work done a second, of each repeat, after one that is not counted: the clock rises and memory is touched in it.

    Args:
        once: does some work, and returns how much.
        window: seconds of each repeat.
    """
    values = []
    for _ in range(REPEATS + 1):
        work, started = 0.0, time.perf_counter()
        while (passed := time.perf_counter() - started) < window or not work:
            work += once()
        values.append(work / passed)
    return values[1:]


def read(window: float, cores: int, available: int | None) -> Found:
    """Bytes read a second on all cores at once, and none written: as an engine reads the weights of its model."""
    caches = cache_bytes()
    whole = max(READ_BYTES, TIMES_THE_CACHES * caches)
    whole = whole if available is None else min(whole, available // 4)
    if whole < 2 * caches:
        return {"reason": f"{whole} bytes are free for it, and {caches} of them would stay in the caches"}
    size = whole // cores
    parts = [ctypes.create_string_buffer(size) for _ in range(cores)]
    for part in parts:
        ctypes.memset(part, 1, size)  # pages that nobody has written are all the same one, of zeros
    # It looks for a byte that is not there, so it reads all; C libraries have it in vector instructions.
    memchr = ctypes.CDLL(None).memchr
    memchr.argtypes, memchr.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], ctypes.c_void_p

    def once() -> float:
        # A call through ctypes lets other threads run, so one process keeps all cores busy.
        threads = [threading.Thread(target=memchr, args=(part, 2, size)) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return float(size * cores)

    return {"values": repeated(once, window), "by": f"memchr over {size * cores >> 20} MiB on {cores} cores"}


def f32(window: float, models: Path) -> Found:
    """Float32 operations a second of one core: in onnxruntime, or in numpy where that is not there."""
    try:
        once, by = product(models / "f32.onnx")
    except ImportError:
        return f32_of_numpy(window)
    return {"values": repeated(once, window), "by": by}


def f32_of_numpy(window: float) -> Found:
    """The same product by whatever numpy multiplies with."""
    try:
        numpy = importlib.import_module("numpy")
    except ImportError:
        return {"reason": "neither onnxruntime nor numpy is installed there"}
    a, b = (numpy.ones(shape, dtype=numpy.float32) for shape in ((ROWS, WIDTH), (WIDTH, WIDTH)))

    def once() -> float:
        a @ b
        return OPERATIONS

    return {"values": repeated(once, window), "by": f"a product in numpy {numpy.__version__}"}


def int8(window: float, models: Path) -> Found:
    """8-bit operations a second of one core, the rounding of the inputs to 8 bits in the time."""
    try:
        once, by = product(models / "int8.onnx")
    except ImportError:
        return {"reason": "onnxruntime is not installed there"}
    return {"values": repeated(once, window), "by": by}


def product(model: Path) -> tuple[Callable[[], float], str]:
    """One run of a model on one core. Raises ImportError where there is no onnxruntime."""
    engine = importlib.import_module("onnxruntime")
    numpy = importlib.import_module("numpy")
    options = engine.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = engine.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    inputs = {"a": numpy.linspace(-1, 1, ROWS * WIDTH, dtype=numpy.float32).reshape(ROWS, WIDTH)}

    def once() -> float:
        session.run(None, inputs)
        return OPERATIONS

    return once, f"a product in onnxruntime {engine.__version__}"


def storage(window: float, folder: Path) -> Found:
    """Bytes read a second from a file that the system has dropped from memory."""
    if not hasattr(os, "posix_fadvise"):
        return {"reason": "this system does not drop a file from memory when it is told to"}
    if shutil.disk_usage(folder).free < 4 * FILE_BYTES:
        return {"reason": f"less than {4 * FILE_BYTES >> 20} MiB are free there"}
    values = []
    with tempfile.TemporaryFile(dir=folder) as file:
        block = os.urandom(BLOCK_BYTES)  # some file systems write no block of zeros
        size, stop = 0, time.perf_counter() + REPEATS * window
        while size < FILE_BYTES and (not size or time.perf_counter() < stop):  # cards write slowly
            size += file.write(block)
            file.flush()
            os.fsync(file.fileno())  # what is not written yet cannot be dropped
        for _ in range(REPEATS):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if (kept := cached_share(file.fileno(), size)) > STILL_CACHED:
                return {"reason": f"the system keeps {kept:.0%} of a file in memory although it is told to drop it"}
            started = time.perf_counter()
            for position in range(0, size, BLOCK_BYTES):
                os.pread(file.fileno(), BLOCK_BYTES, position)
            values.append(size / (time.perf_counter() - started))
    return {"values": values, "by": f"reading {size >> 20} MiB in order"}


def cached_share(descriptor: int, size: int) -> float:
    """How much of a file is in memory, from 0 to 1."""
    library = ctypes.CDLL(None, use_errno=True)
    pages = -(-size // mmap.PAGESIZE)
    vector = (ctypes.c_ubyte * pages)()
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY) as view:
        first = ctypes.c_char.from_buffer(view)
        failed = library.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), vector)
        del first  # the view cannot be closed while something points into it
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    return sum(page & 1 for page in vector) / pages


def cache_bytes() -> int:
    """All caches of the last level together; 0 where the system does not tell."""
    found: dict[str, tuple[int, int]] = {}
    for index in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index*"):
        with contextlib.suppress(OSError, ValueError):
            level = int((index / "level").read_text())
            size = int((index / "size").read_text().strip().rstrip("K")) * 1024
            found[f"{level} {(index / 'shared_cpu_list').read_text()}"] = (level, size)
    last = max((level for level, _ in found.values()), default=0)
    return sum(size for level, size in found.values() if level == last)


def facts(folder: Path) -> Found:
    """What the system tells about itself; None where it does not."""
    processors = cpuinfo()
    # What some cores lack no program may use: the system moves it from one to the other.
    flags = [set((one.get("Features") or one.get("flags") or "").split()) for one in processors]
    memory = meminfo()
    affinity: Any = getattr(os, "sched_getaffinity", None)
    return {
        "machine": platform.machine(),
        "bits": 8 * ctypes.sizeof(ctypes.c_void_p),
        "system": platform.system(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "python": platform.python_version(),
        "title": title(processors),
        "flags": sorted(set.intersection(*flags)) if flags else [],
        "parts": sorted({one["CPU part"] for one in processors if "CPU part" in one}),
        "cores": len(affinity(0)) if affinity else os.cpu_count() or 1,
        "ram_bytes": memory.get("MemTotal") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "available_bytes": memory.get("MemAvailable"),
        "storage_bytes": shutil.disk_usage(folder).free,
        "packages": {name: version(name) for name in PACKAGES},
    }


def cpuinfo() -> list[dict[str, str]]:
    """What Linux tells of each processor; lines that are not of one, as on older boards, come last."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    blocks = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        for block in text.strip().split("\n\n")
    ]
    return [block for block in blocks if "Features" in block or "flags" in block] or blocks


def title(processors: list[dict[str, str]]) -> str:
    """The name of the board, or of its processor."""
    with contextlib.suppress(OSError):
        return Path("/proc/device-tree/model").read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    named = [one[key] for one in processors for key in ("model name", "Hardware") if one.get(key)]
    return named[0] if named else platform.processor() or platform.machine()


def meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes; nothing where there is none."""
    try:
        lines = [line.split() for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return {}
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if len(line) == 3}


def version(package: str) -> str | None:
    """Of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
