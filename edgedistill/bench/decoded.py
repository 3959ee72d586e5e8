"""Whether a decoder writes the same under the device's instruction set: token by token, in llama.cpp, under emulation.

Two processors add up in another order, so where two words are nearly as likely the other one may be taken. That is
told, with how near they were, and fails nothing.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.bench import greedy
from edgedistill.bench.target import TIMEOUT_S, Found, core_of, kept
from edgedistill.export.gguf import engine
from edgedistill.links import arm64_root, emulated, local
from edgedistill.store import Store, digest
from edgedistill.types import Device, Measurement, NotMeasured

PROMPTS = 20
NEW_TOKENS = 16
MOST_S = 1500.0
"""That answers may be expected to take; a run is ended after half an hour."""
BLOCKS_NS, HALF_NS = 6.0, 50.0
"""What a weight and token take two emulated threads: in blocks of 4 or 8 bits, and in half precision."""
EMULATED_THREADS = 2
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""An emulated thread that waits by turning round takes the processor from the one it waits for."""
BUNDLED = "llama-cpp-python"
FEATURES = {"neon": "NEON", "fp16": "FP16_VA", "dotprod": "DOTPROD", "i8mm": "MATMUL_INT8"}
"""What a board's profile and llama.cpp call the instructions that arithmetic is written for."""

Tokens = Sequence[Sequence[int]]
Answers = list[list[int]]


def kept_equal(file: Path, sha256: str, device: Device, prompts: Tokens, *, weights: int, store: Store) -> Found:
    """Greedy answers of a GGUF file on the emulated core, held against those here, and kept in the store.

    Args:
        sha256: of the file.
        prompts: token ids; the 20 shortest are asked, as an emulated core reads slowly.
        weights: how many the file has.
    """
    core = core_of(device, emulated.missing(arm64_root.DECODING))
    if isinstance(core, NotMeasured):
        return (core,)
    package = package_here()
    if package is None:
        return (_not("llama.cpp is not installed here", remedy='pip install "edgedistill[gguf]"'),)
    asked = [list(prompt) for prompt in sorted(prompts, key=len)[:PROMPTS]]
    each_ns = HALF_NS if file.stat().st_size > 1.5 * weights else BLOCKS_NS
    seconds = 1e-9 * each_ns * weights * _work(asked)
    if seconds > MOST_S:
        return (_not(f"{len(asked)} answers of this file would take an emulated core {seconds / 60:,.0f} minutes"),)
    inputs = {
        "file": sha256,
        "emulated_cpu": core,
        "isa": device.isa,
        "packages": [arm64_root.DECODING, package],
        "prompts": digest(asked),
        "new_tokens": NEW_TOKENS,
    }
    found, _ = kept(inputs, lambda: _find(file, device, core, package, asked), store)
    return found


def _work(prompts: Tokens) -> int:
    """Tokens that are read and written: what a prompt has in common with the one before it is read once."""
    shared = sum(
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
        for a, b in pairwise(prompts)
    )
    return sum(len(prompt) + NEW_TOKENS for prompt in prompts) - shared


def package_here() -> tuple[str, str] | None:
    """What the file is asked with on this machine: the emulated package in the same version, or else the bundle's."""
    for name in (*arm64_root.DECODING, BUNDLED):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version == arm64_root.DECODING.get(name, version):
            return name, version
    return None


def _find(file: Path, device: Device, core: str, package: tuple[str, str], prompts: Tokens) -> Found:
    ((name, version),) = arm64_root.DECODING.items()

    def on_core(command: list[str | Path], cwd: Path) -> str:
        return emulated.run(command, cpu=core, cwd=cwd, environment=PATIENT, timeout_s=TIMEOUT_S)

    def on_host(command: list[str | Path], cwd: Path) -> str:
        return local.run(
            [sys.executable, *command], cwd=cwd, environment=PATIENT, timeout_s=TIMEOUT_S, what="llama.cpp"
        )

    there, features = _ask(on_core, name, file, prompts, EMULATED_THREADS)
    here, _ = _ask(on_host, package[0], file, prompts, 1)
    asked = [name for name in FEATURES if name in device.isa]
    used = [name for name in asked if FEATURES[name] in features]
    unused = [name for name in asked if name not in used]
    which = (
        f"the bundle's own engine, {BUNDLED}, has no arm64 package; {name} {version}, built for {' and '.join(used)}, "
        f"stood in for it and was held against {' '.join(package)} here"
        + (f"; what {BUNDLED} computes with {' and '.join(unused)} on the board was not run" if unused else "")
    )
    return (*compared(here, there), *_nearness(file, prompts, here, there), NotMeasured(name="engine", reason=which))


def _ask(
    run: Callable[[list[str | Path], Path], str], package: str, file: Path, prompts: Tokens, threads: int
) -> tuple[Answers, list[str]]:
    """The answers, and the features of the processor that the package's arithmetic uses."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request = {"package": package, "file": str(file.resolve()), "new_tokens": NEW_TOKENS, "threads": threads}
        (folder / "request.json").write_text(json.dumps(request | {"prompts": prompts}), encoding="utf-8")
        # -P: the folder of the program has modules of its own, and none of them is meant.
        run(["-P", Path(greedy.__file__).resolve(), folder / "request.json"], folder)
        reply: dict[str, Any] = json.loads((folder / greedy.REPLY).read_text(encoding="utf-8"))
    return reply["answers"], reply["features"]


def compared(here: Tokens, there: Tokens) -> tuple[Measurement, ...]:
    """How many answers are equal, how many tokens up to where two part, and where that is, counted from 0."""
    parted = [_parted(a, b) for a, b in zip(here, there, strict=True)]
    whole = [max(len(a), len(b)) for a, b in zip(here, there, strict=True)]
    same = sum(length if at is None else at for at, length in zip(parted, whole, strict=True))
    places = tuple(float(at) for at in parted if at is not None)
    return (
        _share("answers_equal", parted.count(None), len(parted)),
        _share("tokens_equal", same, sum(whole)),
        *([Measurement(name="parts_at_token", unit="", kind="emulated", values=places)] if places else []),
    )


def _parted(here: Sequence[int], there: Sequence[int]) -> int | None:
    longest = max(len(here), len(there))
    return next((at for at in range(longest) if here[at : at + 1] != there[at : at + 1]), None)


def _nearness(file: Path, prompts: Tokens, here: Tokens, there: Tokens) -> tuple[Measurement, ...]:
    """By how much, in logits here, the token here was likelier than the one there, wherever two answers part."""
    rows = [
        (prompt, a[: at + 1], b[at])
        for prompt, a, b in zip(prompts, here, there, strict=True)
        if (at := _parted(a, b)) is not None and at < min(len(a), len(b))  # else one of them has ended
    ]
    if not rows:
        return ()
    request = {
        "do": "answer",
        "file": str(file.resolve()),
        "texts": [],
        "special": False,
        "prompts": [prompt for prompt, _, _ in rows],
        "forced": [answer for _, answer, _ in rows],
        "threads": 1,
    }
    with engine.ask(request, bytes_read=file.stat().st_size) as folder:
        last = [np.load(folder / f"logits-{number}.npy")[-1] for number in range(len(rows))]
    gaps = tuple(float(logits[a[-1]] - logits[b]) for logits, (_, a, b) in zip(last, rows, strict=True))
    return (Measurement(name="logits_apart_where_parted", unit="", kind="emulated", values=gaps),)


def _share(name: str, part: int, whole: int) -> Measurement:
    return Measurement(name=name, unit="share", kind="emulated", values=(part / whole if whole else 1.0,))


def _not(reason: str, *, remedy: str | None = None) -> NotMeasured:
    return NotMeasured(name="answers_equal", reason=reason, remedy=remedy)
