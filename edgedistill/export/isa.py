"""What a recipe becomes on a board's instruction set: the range that its processor adds up right, and its kernels.

Every rule is of the engine's own kernels (MLAS): x86 multiplies unsigned by signed bytes and adds pairs in 16 bits that
saturate, unless it has VNNI; NEON adds in 32 bits with and without dotprod; arm64 has 8-bit kernels for weight-only
products only with dotprod.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from edgedistill.types import Recipe

CPUINFO = Path("/proc/cpuinfo")
VNNI = frozenset({"avx-vnni", "avx512-vnni"})
_FLAGS = {
    "asimd": "neon",
    "neon": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "avx2": "avx2",
    "avx_vnni": "avx-vnni",
    "avx512_vnni": "avx512-vnni",
}
_FAMILIES = {
    "x86_64": "x86_64",
    "AMD64": "x86_64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
    "armv7l": "armv7",
    "armv8l": "armv7",
}


def saturates(isa: Collection[str]) -> bool:
    """Whether full-range 8-bit weights can overflow: x86 without VNNI, and whatever says too little about itself."""
    return not VNNI & set(isa) and (set(isa) & {"x86_64", "aarch64"} != {"aarch64"})


def here() -> tuple[str, ...]:
    """The instruction set of this machine, as far as the system tells: its family and the extensions that matter."""
    try:
        words = set(CPUINFO.read_text(encoding="utf-8").replace("\t", " ").split())
    except OSError:
        words = set()
    return named(platform.machine(), words)


def named(machine: str, flags: Collection[str]) -> tuple[str, ...]:
    """An instruction set in the words of the catalogue: the family, and the extensions that matter.

    Args:
        machine: as the system's `uname -m` gives it; "armv8l" is a 64-bit core in a 32-bit system.
        flags: as Linux names them in /proc/cpuinfo.
    """
    extensions = dict.fromkeys(name for flag, name in _FLAGS.items() if flag in flags)
    return (_FAMILIES.get(machine, machine), *extensions)


def suited(
    recipes: Sequence[Recipe],
    isa: Collection[str],
    *,
    judged_on: Collection[str] | None = None,
    asked: str | None = None,
) -> tuple[Recipe, ...]:
    """The recipes for a board: full range where it is safe, and none that its engine has no fast kernels for.

    A file is judged on this machine, so it keeps the reduced range when this machine would saturate, whatever the board
    does.

    Args:
        isa: of the board.
        judged_on: instruction set of the machine that compares the file with the student; None is this one.
    """
    machines = (isa, here() if judged_on is None else judged_on)
    reduce = any(saturates(machine) for machine in machines)
    fast = fast_weight_only(isa)
    kept = [recipe for recipe in recipes if recipe.scheme != "weight-only" or fast or recipe.name == asked]
    return tuple(replace(recipe, reduce_range=recipe.reduce_range and reduce) for recipe in kept)


def fast_weight_only(isa: Collection[str]) -> bool:
    """Whether the engine multiplies few-bit weights with 8-bit activations there, instead of widening them first."""
    return "dotprod" in isa if "aarch64" in isa else "avx2" in isa or bool(VNNI & set(isa))
