"""The JSON of a benchmark: written canonically, read with every problem named, described for strangers.

`benchmarks/results/schema.json` is the JSON Schema of these files; `schema()` makes it from the types.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edgedistill.catalog import problems
from edgedistill.errors import InputError
from edgedistill.store import canonical, write_atomically
from edgedistill.types import Result

SCHEMA = 1
"""Grows when a key changes its meaning or goes away; new keys are read over by older versions."""
SUFFIX = ".bench.json"
MAX_BYTES = 500_000_000
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def write(result: Result, path: Path) -> None:
    """Writes a result: canonical JSON, so that equal results are equal files."""
    write_atomically(path, canonical(dataclasses.asdict(result)))


def read(path: Path) -> Result:
    """What `write` wrote.

    Raises:
        InputError: the file is no result, or one of another version, with every problem in it.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is larger than any result", hint="edgedistill bench writes them")
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint=f"a {SUFFIX} file is wanted") from error
    try:
        plain = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}", hint="edgedistill bench writes such files") from error
    if not isinstance(plain, dict) or "schema" not in plain:
        raise InputError(f"{path} is no result of a benchmark", hint="edgedistill bench writes them")
    if plain["schema"] != SCHEMA:
        written = str(plain.get("version", "of another version"))[:20]
        raise InputError(
            f"{path} has schema {plain['schema']!r}, and this version reads {SCHEMA}",
            hint=f"it was written by edgedistill {written}: install that, or measure again",
        )
    try:
        return TypeAdapter(Result).validate_json(raw, strict=True)
    except ValidationError as error:
        raise InputError(f"{path} has {problems(error)}", hint="benchmarks/results/README.md describes it") from error


def schema() -> dict[str, Any]:
    """The JSON Schema of a result, with what the types say of each key."""
    made = TypeAdapter(Result).json_schema(mode="serialization")
    types = {kind.__name__: kind for kind in _dataclasses(Result)}
    for name, entry in ({"Result": made} | made.get("$defs", {})).items():
        said = _attributes(types[name])
        entry["description"] = " ".join((types[name].__doc__ or "").split("\n\n", 1)[0].split())
        for key, text in said.items():
            if key in entry["properties"]:
                entry["properties"][key]["description"] = text
    made["properties"]["schema"]["const"] = SCHEMA
    return {"$schema": DIALECT, **made}


def schema_json() -> str:
    """The text of schema.json."""
    return json.dumps(schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _dataclasses(kind: type) -> Iterator[type]:
    """A dataclass and all that its fields are made of."""
    yield kind
    for hint in typing.get_type_hints(kind).values():
        for part in _parts(hint):
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                yield from _dataclasses(part)


def _parts(hint: Any) -> Iterator[Any]:
    inside = typing.get_args(hint)
    if not inside:
        yield hint
    for one in inside:
        yield from _parts(one)


def _attributes(kind: type) -> Mapping[str, str]:
    """What a docstring says below "Attributes:", by name; a text goes on in lines that are indented further."""
    _, _, told = (kind.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in told.splitlines():
        if begins := re.fullmatch(r" {8}(\w+): (.+)", line):
            name = begins[1]
            found[name] = begins[2]
        elif name and line.startswith(" " * 12):
            found[name] += " " + line.strip()
    return found
