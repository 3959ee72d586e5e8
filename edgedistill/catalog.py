"""The catalogue: devices, recipes and workloads, each one TOML file.

A folder of the same name in the working directory comes first, so adding a board is adding `./devices/mine.toml`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgedistill.errors import InputError
from edgedistill.types import Device, Fact, Recipe, Workload

_PACKAGE = Path(__file__).parent
ROOT = _PACKAGE / "_catalog" if (_PACKAGE / "_catalog").is_dir() else _PACKAGE.parent
"""Where the built-in folders lie: inside the package in a wheel, beside it in a checkout."""

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

# Strict, because otherwise `cores = true` is 1 core and `cores = "4"` is 4.
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
PositiveInt = Annotated[int, Field(gt=0, strict=True)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False, frozen=True)


class _Fact(_File):
    value: Positive
    source: str = Field(min_length=1)
    trust: Literal["measured", "source", "assumed"]


class _Gops(_File):
    int8: _Fact
    f32: _Fact


class _Budget(_File):
    latency_ms: Positive
    model_bytes: PositiveInt
    memory_bytes: PositiveInt


class _Device(_File):
    title: str
    machine: str | None = None
    aliases: tuple[str, ...] = ()
    isa: tuple[str, ...] = Field(min_length=1)
    emulated_cpu: str | None = None
    cores: PositiveInt
    ram_bytes: PositiveInt
    ram_usable_bytes: PositiveInt
    storage_bytes: PositiveInt
    bandwidth_bytes_s: Positive
    storage_bandwidth_bytes_s: Positive | None = None
    gops: _Gops
    engines: tuple[str, ...] = ()
    budget: _Budget
    sources: dict[str, str]
    notes: tuple[str, ...] = ()


class _Recipe(_File):
    format: Literal["onnx", "gguf", "safetensors"]
    engine: str
    bits: Literal[4, 5, 6, 8, 16, 32]
    scheme: str
    per_channel: bool = False
    reduce_range: bool = False
    needs_isa: tuple[str, ...] = ()
    tolerance: Annotated[float, Field(ge=0, le=1)]
    embedding_bits: Literal[4, 8] | None = None
    calibration: Literal["percentile", "entropy"] | None = None
    on_request: bool = False
    stored_bits: Literal[4] | None = None

    @model_validator(mode="after")
    def _stored_bits_are_of_bytes(self) -> Self:
        if self.stored_bits is not None and (self.scheme, self.bits) != ("dynamic", 8):
            raise ValueError('stored_bits goes with scheme = "dynamic" and bits = 8')
        return self


class _Workload(_File):
    task: str
    rows: PositiveInt
    batch_rows: PositiveInt
    threads: PositiveInt
    rounds: PositiveInt
    seed: int = 0
    answer_rows: PositiveInt = 500
    within: Annotated[float, Field(gt=0, lt=1, strict=True)] | None = None
    limit_s: Positive = 60.0
    prompt_tokens: tuple[PositiveInt, ...] = ()
    new_tokens: Annotated[int, Field(gt=1, strict=True)] = 32


Schema = TypeVar("Schema", bound=_File)


def device(name: str) -> Device:
    """The profile of a board, by its name or one of its aliases.

    Raises:
        InputError: no such board, with the closest names; or its file is wrong, with every problem in it.
    """
    known = _aliases()
    if name not in known:
        raise _unknown("target", name, sorted(known), "edgedistill targets lists them all")
    return read_device(known[name])


def read_device(path: Path) -> Device:
    """The profile in a file, wherever it lies. Raises InputError with every problem in it."""
    read = _read(path, _Device)
    facts = {key: Fact(**fact.model_dump()) for key, fact in iter(read.gops)}
    return Device(
        name=path.stem,
        **{key: value for key, value in iter(read) if key not in {"gops", "budget"}},
        gops=facts,
        budget=read.budget.model_dump(),
    )


def devices(*, own: bool = True) -> tuple[Device, ...]:
    """Every board in the catalogue, by name; without `own`, those of the working directory stay out."""
    if own:
        return tuple(device(name) for name in sorted(_files("devices")))
    return tuple(map(read_device, sorted((ROOT / "devices").glob("*.toml"))))


def recipe(name: str) -> Recipe:
    """An export recipe by name. Raises InputError when there is none or its file is wrong."""
    return Recipe(name=name, **_read(_find("export", name, "recipe"), _Recipe).model_dump())


def recipes() -> tuple[Recipe, ...]:
    """Every export recipe, smallest weights first."""
    found = [recipe(name) for name in _files("export")]
    return tuple(sorted(found, key=lambda one: (one.file_bits, one.table_bits, one.bits, one.name)))


def workload(name: str) -> Workload:
    """A benchmark workload by name. Raises InputError when there is none or its file is wrong."""
    return Workload(name=name, **_read(_find("benchmarks/workloads", name, "workload"), _Workload).model_dump())


def is_named(device: Device, machine: str) -> bool:
    """Whether a profile is of the board that calls itself so.

    A profile that `devices add` wrote holds what its board says; others are titled as their boards call themselves.
    """
    if device.machine is not None:
        return _words(machine) == _words(device.machine)
    names = map(_words, (device.title.partition(" (")[0], *device.aliases))
    return any(re.search(rf"\b{re.escape(name)}\b", _words(machine)) for name in names)


def _words(name: str) -> str:
    """A name as it is compared: Linux calls a Model B+ "Model B Plus", and chips carry marks like (R)."""
    return " ".join(re.sub(r"\((?:r|tm)\)", " ", name.casefold()).replace("+", " plus").split())


def _files(folder: str) -> dict[str, Path]:
    """The TOML files of one catalogue folder by name, the working directory's before the built-in ones."""
    found: dict[str, Path] = {}
    for root in (Path.cwd(), ROOT):
        for path in sorted((root / folder).glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def _find(folder: str, name: str, what: str) -> Path:
    files = _files(folder)
    if name not in files:
        raise _unknown(what, name, sorted(files), f"there are: {', '.join(sorted(files))}")
    return files[name]


def _aliases() -> dict[str, Path]:
    names: dict[str, Path] = {}
    for stem, path in _files("devices").items():
        if not NAME.fullmatch(stem):
            raise InputError(f"{path}: the name of a device file must match {NAME.pattern}", hint="rename the file")
        for alias in _read(path, _Device).aliases:
            names.setdefault(alias, path)
    return names | _files("devices")


def _unknown(what: str, name: str, known: list[str], otherwise: str) -> InputError:
    shown = name if len(name) <= 80 else name[:77] + "..."
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}?" if close else otherwise
    return InputError(f"unknown {what} {shown!r}", hint=hint)


def _read(path: Path, schema: type[Schema]) -> Schema:
    try:
        return schema.model_validate(read_toml(path))
    except ValidationError as error:
        where = "benchmarks/README.md" if schema is _Workload else "devices/README.md"
        raise InputError(f"{path} has {problems(error)}", hint=f"every key is described in {where}") from error


def read_toml(path: Path) -> dict[str, object]:
    """A TOML file as plain values. Raises InputError with the file and the line when it is not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith("\ufeff"):
            raise InputError(f"{path} begins with a byte-order mark", hint="save it as UTF-8 without BOM")
        return tomllib.loads(text)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", hint="edgedistill init writes one") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="it must be a file you may read") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})", hint="save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}", hint="fix that line") from error


def problems(error: ValidationError) -> str:
    """All problems of a validation, one a line: where, what, and the value found."""
    lines = []
    for item in error.errors():
        # Of a key that is not there, pydantic hands over the table around it, which is not what was found.
        where = ".".join(str(part) for part in item["loc"])
        # Somebody may have put a key where its variable's name belongs; a table around the problem says nothing.
        hidden = item["type"] == "missing" or "key" in where or not isinstance(item["input"], (str, int, float, bool))
        found = "" if hidden else f" (found {str(item['input'])[:60]!r})"
        said = item["msg"][:1].lower() + item["msg"][1:]
        if "key" in where:
            said += "; keys stand in the environment: write key_env = the NAME of the variable"
        lines.append(f"  {where}: {said}{found}")
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    return f"{count}:\n" + "\n".join(lines)
