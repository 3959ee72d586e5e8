"""Opening an ONNX file that somebody else made: in a child process with limits, and nothing outside the file's folder.

The parent never parses the file. A file that makes the parser run out of memory, loop or crash ends the child, and the
caller gets one clear error.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedistill.errors import EngineCrashed, IntegrityError
from edgedistill.links import local

MAX_BYTES = 2 * 1024**3
"""Of a file and its external data together; no ONNX file can be larger without external data."""
MEMORY_FACTOR = 6
"""Address space for the child: the parsed weights, the engine's copy, what it packs, and slack."""
MEMORY_FLOOR = 4 * 1024**3
CPU_S = 120
TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What is in a file that opened.

    Attributes:
        inputs: shape of each input by name; a text is an axis of any size.
        outputs: the same for outputs.
        findings: what the linter says, as mappings.
    """

    path: Path
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    findings: tuple[dict[str, Any], ...]


def open_checked(path: Path, *, labels: int | None = None, max_bytes: int = MAX_BYTES) -> Opened:
    """Checks, lints and loads a foreign ONNX file in a limited child process.

    Args:
        labels: number of classes that it must have; None accepts any head.
        max_bytes: of everything in its folder that belongs to it.

    Raises:
        IntegrityError: the file is too large, asks for data outside its folder, has a fault that stops, or the child
            that opened it was ended.
    """
    hint = "only use files whose origin you trust, or export the checkpoint anew"
    if not path.is_file():
        raise IntegrityError(f"{path} is no file", hint=hint)
    if path.stat().st_size > max_bytes:
        raise IntegrityError(f"{path} has {path.stat().st_size} bytes; {max_bytes} are allowed", hint=hint)
    command: list[str | Path] = [
        sys.executable,
        "-P",  # the file's folder is no place to import from
        "-m",
        __name__,
        path.absolute(),
        str(max_bytes),
        "" if labels is None else str(labels),
    ]
    try:
        said = local.run(command, cwd=path.absolute().parent, timeout_s=TIMEOUT_S, what=f"opening {path.name}")
        found: dict[str, Any] = json.loads(said)
    except (EngineCrashed, json.JSONDecodeError) as error:
        raise IntegrityError(f"{path} cannot be opened: {_last_line(str(error))}", hint=hint) from error
    if "refused" in found:
        raise IntegrityError(f"{path}: {found['refused']}", hint=hint)
    return Opened(path=path, **found | {"findings": tuple(found["findings"])})


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "it said nothing"


def _child(path: Path, max_bytes: int, labels: int | None) -> dict[str, Any]:
    """What the child finds out, after it has limited itself. Nothing is parsed before."""
    memory = max(MEMORY_FLOOR, MEMORY_FACTOR * min(max_bytes, _folder_bytes(path)))
    for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it only reads
    import onnx

    from edgedistill.export.lint import external, lint
    from edgedistill.runtime.engine_onnx import session

    model = onnx.load(path, load_external_data=False)
    beside = {path.parent / location for location in external(model).values()}
    del model
    findings = lint(path, labels=labels)
    stop = next((finding for finding in findings if finding.severity == "stop"), None)
    if stop is not None:
        return {"refused": f"{stop.where}: {stop.cost}"}
    size = path.stat().st_size + sum(file.stat().st_size for file in beside)
    if size > max_bytes:
        return {"refused": f"it has {size} bytes with its external data; {max_bytes} are allowed"}
    engine = session(path, 1)
    shapes = [
        {value.name: list(value.shape) for value in values} for values in (engine.get_inputs(), engine.get_outputs())
    ]
    return {"inputs": shapes[0], "outputs": shapes[1], "findings": [asdict(finding) for finding in findings]}


def _folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())


if __name__ == "__main__":
    file, limit, classes = sys.argv[1:]
    try:
        answer = _child(Path(file), int(limit), int(classes) if classes else None)
    except Exception as error:  # parsers and engines raise errors of no common kind
        answer = {"refused": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    sys.stdout.write(json.dumps(answer))
