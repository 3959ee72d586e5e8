"""What can be said of the target without the board: the file's answers under its instruction set, never its clock."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedistill.bench import measurements
from edgedistill.errors import EngineCrashed
from edgedistill.links import emulated
from edgedistill.store import Output, Store
from edgedistill.types import Device, Measurement, NotMeasured

TEXTS = 64
RUNTIME = "runtime"
FOUND = "target.json"


def check(
    bundle: Path, device: Device, texts: Sequence[str], host: NDArray[np.float32]
) -> tuple[Measurement | NotMeasured, ...]:
    """Runs a bundle's own runtime under the device's instruction set and compares its answers with the host's.

    Args:
        texts: real rows; the first 64 are answered, each takes about a tenth of a second.
        host: the same file's logits on this machine. Shape: [rows, labels].
    """
    board = NotMeasured(
        name="latency",
        reason=f"no {device.title} is connected",
        remedy="copy the bundle to the board and run edgedistill bench there",
    )
    return (*_answers(bundle, device, texts[:TEXTS], host[:TEXTS]), board)


def kept_check(
    draft: Output, device: Device, texts: Sequence[str], host: NDArray[np.float32], *, store: Store
) -> tuple[tuple[Measurement | NotMeasured, ...], Output]:
    """`check`, kept in the store for as long as bundle and emulator stay what they are."""
    missing = emulated.missing()
    inputs = {"bundle": draft.sha256, "device": device.name, "missing": None if missing is None else missing.reason}

    def produce(folder: Path, _: Path) -> None:
        (folder / FOUND).write_bytes(measurements.to_json(check(draft.path, device, texts, host)))

    output = store.get("target", inputs, produce)
    return measurements.from_json((output.path / FOUND).read_bytes()), output


def _answers(
    bundle: Path, device: Device, texts: Sequence[str], host: NDArray[np.float32]
) -> tuple[Measurement | NotMeasured, ...]:
    if device.emulated_cpu is None:
        return (NotMeasured(name="answers_equal", reason=f"{device.title} has no 64-bit ARM core to emulate"),)
    missing = emulated.missing()
    if missing is not None:
        return (NotMeasured(name="answers_equal", reason=missing.reason, remedy=missing.remedy),)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(list(texts)), encoding="utf-8")
        command: list[str | Path] = ["-m", RUNTIME, "--threads", "1", "measure", "--texts", file, "--what", "answers"]
        try:
            out = emulated.run(command, cpu=device.emulated_cpu, cwd=bundle)
        except EngineCrashed as error:
            return (NotMeasured(name="answers_equal", reason=f"under emulation, {error.message}"),)
    found = np.array(json.loads(out)["logits"], dtype=np.float32)
    same = float((found.argmax(axis=1) == host.argmax(axis=1)).mean())
    error_of_logits = float(np.abs(found - host).max())
    return (
        Measurement(name="answers_equal", unit="share", kind="emulated", values=(same,)),
        Measurement(name="largest_logit_difference", unit="", kind="emulated", values=(error_of_logits,)),
    )
