"""The device catalogue: what is in it, how it is found, and what a wrong name or a wrong file is answered with."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from edgedistill import catalog
from edgedistill.errors import InputError
from edgedistill.types import Device, Fact

NAMES = (
    "android-high",
    "android-low",
    "android-mid",
    "browser",
    "cpu",
    "iot-armv7",
    "iphone",
    "jetson-orin-nano",
    "raspberrypi-zero2w",
    "raspberrypi3",
    "raspberrypi4",
    "raspberrypi5",
    "x86-n100",
)
FAMILIES = {"aarch64", "armv7", "x86_64", "wasm32"}
EXTENSIONS = {"neon", "fp16", "dotprod", "i8mm", "avx2", "avx-vnni", "simd128"}
FACTS = ("isa", "cores", "ram_bytes", "ram_usable_bytes", "storage_bytes", "bandwidth_bytes_s")
README = (catalog.ROOT / "devices" / "README.md").read_text(encoding="utf-8")

MINE = """
title = "My board"
aliases = ["my-alias"]
isa = ["aarch64", "neon"]
cores = 2
ram_bytes = 1_000_000_000
ram_usable_bytes = 500_000_000
storage_bytes = 4_000_000_000
bandwidth_bytes_s = 2.0e9
engines = ["onnxruntime"]

[budget]
latency_ms = 40
model_bytes = 10_000_000
memory_bytes = 100_000_000

[gops]
int8 = { value = 10.0, trust = "assumed", source = "a guess" }
f32 = { value = 5.0, trust = "assumed", source = "a guess" }

[sources]
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `mine.toml` goes in an otherwise empty working folder."""
    (tmp_path / "devices").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "devices" / "mine.toml"


def refusal(name: str) -> InputError:
    with pytest.raises(InputError) as caught:
        catalog.device(name)
    return caught.value


# What is in the catalogue


def test_every_promised_board_is_there_and_no_other() -> None:
    assert tuple(device.name for device in catalog.devices()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_fact_says_where_it_was_read(name: str) -> None:
    device = catalog.device(name)
    assert [fact for fact in FACTS if not device.sources.get(fact, "").strip()] == []
    assert [key for key, fact in device.gops.items() if not fact.source.strip()] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_source_belongs_to_a_key_of_the_file(name: str) -> None:
    assert set(catalog.device(name).sources) <= set(Device.__dataclass_fields__)


@pytest.mark.parametrize("name", NAMES)
def test_a_sourced_fact_names_a_page_and_an_assumed_one_says_so(name: str) -> None:
    device = catalog.device(name)
    page = re.compile(r"[\w-]+/[\w.-]+#\d+|\.md\b|\.json\b|\.td\b|\.whl\b|arXiv \d|edge-llm-leaderboard")
    for source in device.sources.values():
        assert source.startswith("assumed: ") or page.search(source), source
    for fact in device.gops.values():
        assert fact.trust == "assumed" or page.search(fact.source), fact.source


def test_the_machine_you_run_on_is_assumed_throughout() -> None:
    host = catalog.device("cpu")
    assert {fact.trust for fact in host.gops.values()} == {"assumed"}
    assert all(source.startswith("assumed: ") for source in host.sources.values())
    assert any("assumed" in note for note in host.notes)


@pytest.mark.parametrize("name", NAMES)
def test_the_instruction_set_is_a_family_and_known_extensions(name: str) -> None:
    isa = set(catalog.device(name).isa)
    assert isa & FAMILIES
    assert isa <= FAMILIES | EXTENSIONS


@pytest.mark.parametrize(
    ("name", "has_not"),
    [
        ("raspberrypi5", {"i8mm"}),
        ("raspberrypi4", {"dotprod", "fp16", "i8mm"}),
        ("raspberrypi3", {"dotprod", "fp16", "i8mm"}),
        ("raspberrypi-zero2w", {"dotprod", "fp16", "i8mm"}),
        ("jetson-orin-nano", {"i8mm"}),
        ("android-mid", {"i8mm"}),
        ("android-low", {"dotprod", "fp16", "i8mm"}),
    ],
)
def test_no_board_claims_an_instruction_that_would_kill_a_program_on_it(name: str, has_not: set[str]) -> None:
    assert not has_not & set(catalog.device(name).isa)


@pytest.mark.parametrize(
    ("name", "cpu"),
    [
        ("raspberrypi5", "cortex-a76"),
        ("raspberrypi4", "cortex-a72"),
        ("raspberrypi3", "cortex-a53"),
        ("raspberrypi-zero2w", "cortex-a53"),
        ("jetson-orin-nano", "cortex-a76"),
        ("x86-n100", None),
        ("iot-armv7", None),
        ("browser", None),
        ("iphone", None),
    ],
)
def test_only_64_bit_arm_boards_are_emulated(name: str, cpu: str | None) -> None:
    assert catalog.device(name).emulated_cpu == cpu


@pytest.mark.parametrize("name", NAMES)
def test_what_a_user_expects_of_a_board_fits_into_it(name: str) -> None:
    device = catalog.device(name)
    assert device.ram_usable_bytes <= device.ram_bytes
    assert device.budget["model_bytes"] <= device.budget["memory_bytes"] <= device.ram_usable_bytes
    assert device.budget["model_bytes"] <= device.storage_bytes


def test_a_better_class_of_phone_is_better_in_every_respect() -> None:
    low, mid, high = (catalog.device(f"android-{tier}") for tier in ("low", "mid", "high"))
    for lesser, better in ((low, mid), (mid, high)):
        assert set(lesser.isa) <= set(better.isa)
        assert lesser.ram_usable_bytes < better.ram_usable_bytes
        assert lesser.bandwidth_bytes_s < better.bandwidth_bytes_s
        assert lesser.gops["int8"].value * lesser.cores < better.gops["int8"].value * better.cores


def test_only_the_32_bit_gateway_has_no_engine_but_numpy_and_it_says_why() -> None:
    assert [device.name for device in catalog.devices() if device.engines == ("numpy",)] == ["iot-armv7"]
    assert any("microsoft/onnxruntime#24511" in note for note in catalog.device("iot-armv7").notes)


def test_a_fact_arrives_with_its_trust() -> None:
    fact = catalog.device("raspberrypi4").gops["int8"]
    assert isinstance(fact, Fact)
    assert (fact.value, fact.trust) == (19.4, "source")
    assert "Tencent/ncnn benchmark/README.md" in fact.source


# Names


def test_raspberrypi_is_the_raspberry_pi_5() -> None:
    assert catalog.device("raspberrypi") == catalog.device("raspberrypi5")


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("pi4", "raspberrypi4"),
        ("zero2w", "raspberrypi-zero2w"),
        ("orin-nano", "jetson-orin-nano"),
        ("android", "android-mid"),
        ("ios", "iphone"),
        ("n100", "x86-n100"),
        ("armv7", "iot-armv7"),
        ("wasm", "browser"),
        ("host", "cpu"),
    ],
)
def test_a_board_is_found_by_its_alias(alias: str, name: str) -> None:
    assert catalog.device(alias).name == name


def test_no_alias_is_claimed_twice_or_hides_a_name() -> None:
    claimed = Counter(alias for device in catalog.devices() for alias in device.aliases)
    claimed.update(NAMES)
    assert [name for name, times in claimed.items() if times > 1] == []


def test_every_alias_could_be_the_name_of_a_file() -> None:
    aliases = [alias for device in catalog.devices() for alias in device.aliases]
    assert [alias for alias in aliases if not catalog.NAME.fullmatch(alias)] == []


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("rasberrypi", "raspberrypi"),
        ("RaspberryPi5", "raspberrypi5"),
        ("zero-2w", "zero2w"),
        ("jetson-orin", "jetson-orin-nano"),
        ("broswer", "browser"),
    ],
)
def test_an_unknown_name_is_answered_with_the_closest_one_first(wrong: str, meant: str) -> None:
    error = refusal(wrong)
    assert wrong in error.message
    assert error.hint is not None
    assert re.match(rf"did you mean {re.escape(meant)}[ ?]", error.hint)


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param("../../etc/passwd", id="a path"),
        pytest.param("devices/raspberrypi5", id="a path into the catalogue"),
        pytest.param("raspberrypi5.toml", id="a file name"),
        pytest.param("", id="nothing"),
        pytest.param(" raspberrypi5", id="a space before it"),
        pytest.param("x" * 10_000, id="ten thousand letters"),
        pytest.param("raspberryp\N{CYRILLIC SMALL LETTER BYELORUSSIAN-UKRAINIAN I}5", id="a look-alike letter"),
        pytest.param("raspberrypi\N{FULLWIDTH DIGIT FIVE}", id="a look-alike digit"),
        pytest.param("pi5\x00", id="a null byte"),
        pytest.param("\x1b[31mpi5", id="a terminal command"),
        pytest.param("\ud800", id="half a character"),
        pytest.param("*", id="a pattern"),
    ],
)
def test_a_hostile_name_is_an_unknown_target_and_nothing_more(hostile: str) -> None:
    error = refusal(hostile)
    assert error.message.startswith("unknown target ")
    assert error.exit_code == 2
    assert len(error.message) < 200
    assert error.message.isprintable()


# The working folder


def test_a_board_in_the_working_folder_is_found(mine: Path) -> None:
    mine.write_text(MINE, encoding="utf-8")
    assert catalog.device("mine").title == "My board"
    assert catalog.device("my-alias").name == "mine"
    assert {device.name for device in catalog.devices()} == {*NAMES, "mine"}


def test_a_board_in_the_working_folder_comes_before_the_built_in_one_of_its_name(mine: Path) -> None:
    mine.with_name("raspberrypi5.toml").write_text(MINE, encoding="utf-8")
    assert catalog.device("raspberrypi5").title == "My board"


def test_an_alias_in_the_working_folder_comes_before_the_built_in_one(mine: Path) -> None:
    mine.write_text(MINE.replace("my-alias", "pi4"), encoding="utf-8")
    assert catalog.device("pi4").name == "mine"


def test_an_alias_never_hides_a_board_of_that_name(mine: Path) -> None:
    mine.write_text(MINE.replace("my-alias", "raspberrypi4"), encoding="utf-8")
    assert catalog.device("raspberrypi4").title == "Raspberry Pi 4 (2 GB)"


def test_a_working_folder_without_devices_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tuple(device.name for device in catalog.devices()) == NAMES


def test_a_file_name_that_could_not_be_typed_as_a_target_is_refused(mine: Path) -> None:
    mine.with_name("My Board.toml").write_text(MINE, encoding="utf-8")
    error = refusal("raspberrypi5")
    assert "My Board.toml" in error.message
    assert error.hint == "rename the file"


# Broken files


@pytest.mark.parametrize(
    ("line", "instead", "problem"),
    [
        pytest.param("cores = 2", "cores = 2\nspeed = 3", "speed: extra", id="a key that does not exist"),
        pytest.param("cores = 2\n", "", "cores: field required", id="a key left out"),
        pytest.param("cores = 2", 'cores = "four"', "cores: .*integer.*four", id="a word for a number"),
        pytest.param("cores = 2", 'cores = "4"', "cores: .*integer", id="a number in quotes"),
        pytest.param("cores = 2", "cores = true", "cores: .*integer", id="a truth value for a number"),
        pytest.param("cores = 2", "cores = 2.5", "cores: .*integer.*2.5", id="half a core"),
        pytest.param("cores = 2", "cores = 0", "cores: .*greater than 0", id="no core"),
        pytest.param("ram_bytes = 1_", "ram_bytes = -1_", "ram_bytes: .*greater than 0.*-1", id="negative RAM"),
        pytest.param("2.0e9", "nan", "bandwidth_bytes_s: .*finite.*nan", id="not a number"),
        pytest.param("2.0e9", "inf", "bandwidth_bytes_s: .*finite.*inf", id="infinity"),
        pytest.param("2.0e9", "1e999", "bandwidth_bytes_s: .*finite.*inf", id="more than a double holds"),
        pytest.param('["aarch64", "neon"]', "[]", "isa: ", id="no instruction set"),
        pytest.param('["aarch64", "neon"]', '"neon"', "isa: .*neon", id="text for a list"),
        pytest.param("latency_ms = 40\n", "", "budget.latency_ms: field required", id="half a budget"),
        pytest.param("value = 10.0", "value = 0", "gops.int8.value: .*greater than 0", id="no throughput"),
        pytest.param(
            '"assumed", source = "a guess" }\nf', '"sure", source = "a guess" }\nf', "trust: .*sure", id="trust"
        ),
        pytest.param('source = "a guess" }\nf', 'source = "" }\nf', "gops.int8.source: ", id="an empty source"),
        pytest.param("[sources]", "[sources]\ncores = 4", "sources.cores: .*string", id="a source that is no text"),
    ],
)
def test_a_wrong_value_is_answered_with_its_file_its_key_and_what_was_found(
    mine: Path, line: str, instead: str, problem: str
) -> None:
    assert MINE.count(line) == 1
    mine.write_text(MINE.replace(line, instead), encoding="utf-8")
    error = refusal("mine")
    head, *lines = error.message.splitlines()
    assert head == f"{mine} has 1 problem:"
    assert len(lines) == 1
    assert re.search(rf"  (\w+\.)*{problem}", lines[0]), lines[0]
    assert error.hint is not None
    assert "devices/README.md" in error.hint


def test_a_missing_budget_is_named_without_a_dump_of_the_file_around_it(mine: Path) -> None:
    mine.write_text(re.sub(r"\[budget\]\n(\w+ = .*\n)+", "", MINE), encoding="utf-8")
    assert refusal("mine").message.splitlines()[1:] == ["  budget: field required"]


def test_all_problems_of_a_file_are_told_at_once(mine: Path) -> None:
    broken = MINE.replace("cores = 2", 'cores = "four"').replace("ram_bytes = 1_", "ram_bytes = -1_")
    broken = broken.replace("2.0e9", "nan").replace("[budget]", "[bugdet]").replace("value = 5.0", "value = -5.0")
    mine.write_text(broken, encoding="utf-8")
    head, *lines = refusal("mine").message.splitlines()
    assert head == f"{mine} has 6 problems:"
    keys = {line.split(":")[0].strip() for line in lines}
    assert keys == {"cores", "ram_bytes", "bandwidth_bytes_s", "budget", "bugdet", "gops.f32.value"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(MINE.replace("My board", "Mein Gerät").encode("latin-1"), "is not UTF-8", id="another encoding"),
        pytest.param(MINE.encode("utf-16"), "is not UTF-8", id="UTF-16"),
        pytest.param(MINE.encode("utf-8-sig"), "begins with a byte-order mark", id="a byte-order mark"),
        pytest.param(b'{"title": "My board"}', "is not valid TOML: .*line 1", id="JSON"),
        pytest.param((MINE + "\n[budget]\n").encode(), "is not valid TOML: .*line", id="a table twice"),
        pytest.param(b"\x00" * 64, "is not valid TOML", id="null bytes"),
        pytest.param(b"", r"has \d+ problems:", id="an empty file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_error_with_its_name(mine: Path, content: bytes, problem: str) -> None:
    mine.write_bytes(content)
    error = refusal("mine")
    assert re.match(rf"{re.escape(str(mine))} {problem}", error.message), error.message
    assert error.hint


def test_a_folder_named_like_a_board_is_one_error_with_its_name(mine: Path) -> None:
    mine.mkdir()
    assert refusal("mine").message.startswith(f"{mine} cannot be read: ")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no dangling links without rights")
def test_a_link_to_nowhere_is_one_error_with_its_name(mine: Path) -> None:
    mine.symlink_to("gone.toml")
    assert refusal("mine").message == f"{mine} does not exist"


# The page about it


def row(name: str) -> list[str]:
    """The cells of a board's row in the README, its name left out."""
    rows = [line for line in README.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1, f"{name} has {len(rows)} rows in devices/README.md"
    return [cell.strip() for cell in rows[0].strip("|").split("|")[1:]]


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_shows_every_board_as_its_file_has_it(name: str) -> None:
    device = catalog.device(name)
    int8 = device.gops["int8"]
    _, ram, usable, isa, shown_int8, bandwidth = row(name)
    assert (ram, usable) == (gigabytes(device.ram_bytes), gigabytes(device.ram_usable_bytes))
    assert re.split(r" \+ | or ", isa) == list(device.isa)
    assert shown_int8 == f"{int8.value:g}" + " *" * (int8.trust == "assumed")
    assumed = device.sources["bandwidth_bytes_s"].startswith("assumed")
    assert bandwidth == f"{device.bandwidth_bytes_s / 1e9:g}" + " *" * assumed


def test_the_readme_has_no_board_that_does_not_exist() -> None:
    table, _, _ = README.partition("## ")
    assert sorted(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)) == sorted(NAMES)


def test_the_readme_explains_every_key_of_a_file() -> None:
    keys = {*Device.__dataclass_fields__, *catalog.device("cpu").budget, *catalog.device("cpu").gops} - {"name"}
    _, _, explained = README.partition("## The keys")
    assert [key for key in keys if not re.search(rf"^\| [^|]*\b{key}\b", explained, re.MULTILINE)] == []
