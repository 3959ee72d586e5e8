"""Each instruction set gets the range that its processor adds up right, and only kernels that it has."""

from __future__ import annotations

import pytest

from edgedistill import catalog
from edgedistill.export.isa import fast_weight_only, here, named, saturates, suited

VNNI = ("x86_64", "avx2", "avx-vnni")


@pytest.mark.parametrize(
    ("isa", "expected"),
    [
        (("x86_64",), True),
        (("x86_64", "avx2"), True),
        (VNNI, False),
        (("x86_64", "avx512-vnni"), False),
        (("aarch64", "neon"), False),
        (("aarch64", "neon", "dotprod"), False),
        (("x86_64", "aarch64"), True),  # either may be meant
        (("wasm32", "simd128"), True),
    ],
)
def test_only_x86_without_vnni_and_the_unknown_saturate(isa: tuple[str, ...], expected: bool) -> None:
    assert saturates(isa) is expected


@pytest.mark.parametrize(
    ("isa", "judged_on", "reduced"),
    [
        (VNNI, VNNI, False),
        (VNNI, ("x86_64", "avx2"), True),  # the file is judged where it would saturate
        (("x86_64", "avx2"), VNNI, True),
        (("aarch64", "neon"), VNNI, False),
    ],
)
def test_the_full_range_is_used_where_board_and_judge_can_add_it_up(
    isa: tuple[str, ...], judged_on: tuple[str, ...], reduced: bool
) -> None:
    (recipe,) = suited([catalog.recipe("onnx-int8-dynamic")], isa, judged_on=judged_on)
    assert recipe.reduce_range is reduced


@pytest.mark.parametrize(("name", "kept"), [("raspberrypi5", True), ("raspberrypi4", False), ("x86-n100", True)])
def test_weight_only_recipes_stay_where_there_are_kernels_for_them(name: str, kept: bool) -> None:
    names = [recipe.name for recipe in suited(catalog.recipes(), catalog.device(name).isa)]
    assert ("onnx-int8-weights" in names) is kept
    assert "onnx-fp32" in names
    assert fast_weight_only(catalog.device(name).isa) is kept


def test_this_machine_says_its_family() -> None:
    assert here()[0] in {"x86_64", "aarch64"}


@pytest.mark.parametrize(
    ("machine", "flags", "words"),
    [
        ("aarch64", "fp asimd asimdhp asimddp i8mm", ("aarch64", "neon", "fp16", "dotprod", "i8mm")),
        ("armv7l", "half thumb neon vfpv4 asimd", ("armv7", "neon")),
        ("x86_64", "sse avx2 avx512_vnni", ("x86_64", "avx2", "avx512-vnni")),
        ("riscv64", "", ("riscv64",)),
    ],
)
def test_what_the_system_says_of_a_processor_becomes_words_of_the_catalogue(
    machine: str, flags: str, words: tuple[str, ...]
) -> None:
    assert named(machine, flags.split()) == words
