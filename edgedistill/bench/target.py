"""What can be said of the target without the board: the file's answers under its instruction set, never its clock."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.bench import measurements
from edgedistill.bench.rows import spread
from edgedistill.errors import EngineCrashed
from edgedistill.links import emulated
from edgedistill.store import Output, Store, digest, hashes
from edgedistill.types import Device, Measurement, NotMeasured, Subject

TEXTS = 64
TIMEOUT_S = 1800.0
"""For all of them; a text takes about a tenth of a second."""
RUNTIME = "runtime"
OWN = {"latency": "latency", "memory_process": "memory"}
"""Figures of a process that a board's budget is about, and their names there."""
FOUND = "target.json"

Found = tuple[Measurement | NotMeasured, ...]


def check(bundle: Path, device: Device, texts: Sequence[str], host: NDArray[np.float32]) -> Found:
    """Runs a bundle's own runtime under the device's instruction set and compares its answers with the host's.

    Args:
        texts: real rows; each takes about a tenth of a second.
        host: the same file's logits for them on this machine. Shape: [rows, labels].

    Raises:
        EngineCrashed: the emulated run ended early or took too long.
    """
    return (*_answers(bundle, device, texts, host), _board(device))


def kept_equal(
    bundle: Path, sha256: str, device: Device, texts: Sequence[Any], host: NDArray[np.float32], *, store: Store
) -> Found:
    """`check` without what is known about the board, kept; a run that is cut short is said, and tried again.

    Args:
        sha256: of the exported file.
        texts: what it answers: texts, pairs of them, or questions with their contexts.
        host: as for `check`; of spans, the first character, the one behind the last, and the score. Shape: [rows, 3].
    """
    missing = emulated.missing()
    inputs = {
        "file": sha256,
        "runtime": hashes(bundle / RUNTIME),
        "emulated_cpu": device.emulated_cpu,
        "missing": None if missing is None else missing.reason,
        "texts": digest(list(texts)),
        "host": hashlib.sha256(host.tobytes()).hexdigest(),
    }

    found, _ = kept(inputs, lambda: _answers(bundle, device, texts, host), store)
    return found


def kept_check(
    draft: Output, device: Device, texts: Sequence[str], host: NDArray[np.float32], *, store: Store
) -> tuple[Found, Output | None]:
    """`check` of 64 rows from all over the test rows, kept in the store while nothing that it depends on changes.

    Returns:
        No output when the emulated run ended early: the next build tries again.
    """
    missing = emulated.missing()
    # Rows come sorted by label in many files: the first ones would be of one label.
    chosen = spread(range(len(texts)), TEXTS)
    texts, host = [texts[i] for i in chosen], host[chosen]
    inputs = {
        "bundle": draft.sha256,
        "device": device.name,
        "emulated_cpu": device.emulated_cpu,
        "missing": None if missing is None else missing.reason,
        "texts": digest(texts),
        "host": hashlib.sha256(host.tobytes()).hexdigest(),
    }

    found, output = kept(inputs, lambda: check(draft.path, device, texts, host), store)
    return (found if output is not None else (*found, _board(device))), output


def kept(inputs: Mapping[str, Any], find: Callable[[], Found], store: Store) -> tuple[Found, Output | None]:
    """What an emulated run found, from the store; a run that is cut short is told, and tried again the next time."""

    def produce(folder: Path, _: Path) -> None:
        (folder / FOUND).write_bytes(measurements.to_json(find()))

    try:
        output = store.get("target", inputs, produce)
    except EngineCrashed as error:
        reason = f"{emulated.CUT_SHORT}: {error.message}"
        return (NotMeasured(name="answers_equal", reason=reason, remedy=error.hint),), None
    return measurements.from_json((output.path / FOUND).read_bytes()), output


def at_home(found: Found, shipped: Subject) -> Found:
    """What is known of the target where that is the machine that measured the file: its own time and memory.

    Args:
        shipped: the exported file, as it was measured.
    """
    rest = [one for one in found if one.name != "latency"]
    own = [replace(one, name=OWN[one.name]) for one in shipped.measurements if one.name in OWN]
    return (*rest, *own)


def _board(device: Device) -> NotMeasured:
    return NotMeasured(
        name="latency",
        reason=f"no {device.title} is connected",
        remedy="copy the bundle to the board and run python -m runtime measure --texts FILE there",
    )


def core_of(device: Device, missing: NotMeasured | None) -> str | NotMeasured:
    """The core to emulate, or why there is none; `missing` says what this machine lacks."""
    if device.emulated_cpu is None:
        return NotMeasured(name="answers_equal", reason=f"{device.title} has no 64-bit ARM core to emulate")
    return device.emulated_cpu if missing is None else replace(missing, name="answers_equal")


def _answers(bundle: Path, device: Device, texts: Sequence[Any], host: NDArray[np.float32]) -> Found:
    core = core_of(device, emulated.missing())
    if isinstance(core, NotMeasured):
        return (core,)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(list(texts)), encoding="utf-8")
        command: list[str | Path] = ["-m", RUNTIME, "--threads", "1", "measure", "--texts", file, "--what", "answers"]
        out = emulated.run(command, cpu=core, cwd=bundle, timeout_s=TIMEOUT_S)
    said = json.loads(out)
    if "spans" in said:
        found = np.array(said["spans"], dtype=np.float32)
        same, differs, what = (found[:, :2] == host[:, :2]).all(axis=1), found[:, 2] - host[:, 2], "score"
    else:
        found = np.array(said["logits"], dtype=np.float32)
        same, differs, what = found.argmax(axis=1) == host.argmax(axis=1), found - host, "logit"
    return (
        Measurement(name="answers_equal", unit="share", kind="emulated", values=(float(same.mean()),)),
        Measurement(
            name=f"largest_{what}_difference", unit="", kind="emulated", values=(float(np.abs(differs).max()),)
        ),
    )
