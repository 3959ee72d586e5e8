"""A decoder's emulated check: what is compared, what is refused and why, and nothing kept of a run that failed."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedistill import catalog
from edgedistill.bench import decoded, greedy
from edgedistill.bench.target import Found
from edgedistill.errors import EngineCrashed
from edgedistill.links import arm64_root, emulated, local
from edgedistill.runtime.engine_llama import Chat
from edgedistill.store import Store
from edgedistill.types import Measurement, NotMeasured
from tests.runtime.ggufs import bundle

BOARD = catalog.device("raspberrypi5")
PROMPTS = [[number % 50 + 10, *range(12, 12 + number)] for number in range(1, 31)]
ASKED = 3
CAN_DECODE = emulated.missing() is None and emulated.missing(arm64_root.DECODING) is None


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny bundle."""
    folder = tmp_path_factory.mktemp("chat") / "bundle"
    bundle(folder)
    return folder


@pytest.fixture
def ask(chat: Path, store: Store) -> Callable[..., Found]:
    def found(prompts: Sequence[Sequence[int]] = PROMPTS[:ASKED], **changes: Any) -> Found:
        settings = {"device": BOARD, "weights": 50_000, "store": store} | changes
        return decoded.kept_equal(chat / "model" / "model.gguf", "sha", prompts=prompts, **settings)

    return found


class Emulator:
    """Runs the program on this machine, by the package that is here, and may change what it found."""

    def __init__(self) -> None:
        self.prompts: list[list[list[int]]] = []
        self.change: Callable[[list[list[int]]], None] = lambda answers: None
        self.crashes = False

    def __call__(self, command: Sequence[Any], *, cwd: Path, environment: dict[str, str], **_: Any) -> str:
        request = json.loads(Path(command[-1]).read_text())
        assert request["package"] == "xllamacpp"
        self.prompts.append(request["prompts"])
        if self.crashes:
            raise EngineCrashed("qemu-aarch64-static ended with signal SIGILL: it said nothing")
        Path(command[-1]).write_text(json.dumps(request | {"package": decoded.BUNDLED}))
        local.run([sys.executable, *command], cwd=cwd, environment=environment)
        reply = json.loads((cwd / greedy.REPLY).read_text())
        self.change(reply["answers"])
        (cwd / greedy.REPLY).write_text(json.dumps(reply))
        return ""


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Emulator:
    made = Emulator()
    monkeypatch.setattr(emulated, "missing", lambda needed=None: None)
    monkeypatch.setattr(emulated, "run", made)
    here = (decoded.BUNDLED, importlib.metadata.version(decoded.BUNDLED))
    monkeypatch.setattr(decoded, "package_here", lambda: here)
    return made


def by_name(found: Found) -> dict[str, tuple[float, ...]]:
    return {one.name: one.values for one in found if isinstance(one, Measurement)}


def why(found: Found) -> NotMeasured:
    (reason,) = found
    assert isinstance(reason, NotMeasured)
    return reason


def test_equal_answers_are_said_to_be_equal_with_the_engines_that_gave_them(
    ask: Callable[..., Found], emulator: Emulator
) -> None:
    found = ask()
    assert by_name(found) == {"answers_equal": (1.0,), "tokens_equal": (1.0,)}
    assert all(one.kind == "emulated" for one in found if isinstance(one, Measurement))
    engine = found[-1]
    assert isinstance(engine, NotMeasured)
    assert f"xllamacpp {arm64_root.DECODING['xllamacpp']}" in engine.reason
    assert f"held against llama-cpp-python {importlib.metadata.version('llama-cpp-python')} here" in engine.reason
    assert ask() == found
    assert len(emulator.prompts) == 1


def test_where_answers_part_is_told_with_how_near_the_two_tokens_were(
    ask: Callable[..., Found], emulator: Emulator, chat: Path
) -> None:
    said = list(Chat(chat).tokens(PROMPTS[1], max_tokens=decoded.NEW_TOKENS))
    assert len(said) > 5

    def change(answers: list[list[int]]) -> None:
        assert answers[1] == said  # as the bundle's own runtime writes
        answers[1][5] = said[5] + 1
        del answers[2][3:]  # ended early: there is no token to compare

    emulator.change = change
    found = by_name(ask())
    assert found["answers_equal"] == (pytest.approx(1 / 3),)
    assert found["tokens_equal"] == (pytest.approx((16 + 5 + 3) / 48),)
    assert found["parts_at_token"] == (5.0, 3.0)
    (apart,) = found["logits_apart_where_parted"]
    assert 0 < apart < 100


def test_the_shortest_prompts_are_asked_and_another_core_or_other_prompts_are_another_check(
    ask: Callable[..., Found], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def find(*given: Any) -> Found:
        asked.append(given[-1])
        return ()

    monkeypatch.setattr(decoded, "_find", find)
    for prompts, core in ((PROMPTS[::-1], "a76"), (PROMPTS, "a76"), (PROMPTS[1:], "a76"), (PROMPTS, "a53")):
        ask(prompts, device=replace(BOARD, emulated_cpu=f"cortex-{core}"))
    assert asked == [PROMPTS[: decoded.PROMPTS], PROMPTS[1:][: decoded.PROMPTS], PROMPTS[: decoded.PROMPTS]]


def test_a_run_that_was_cut_short_is_told_and_tried_again(ask: Callable[..., Found], emulator: Emulator) -> None:
    emulator.crashes = True
    for _ in range(2):
        reason = why(ask())
        assert reason.reason.startswith(emulated.CUT_SHORT)
        assert "SIGILL" in reason.reason
    assert len(emulator.prompts) == 2


def test_what_cannot_be_run_is_refused_with_the_remedy_before_anything_runs(
    ask: Callable[..., Found], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no 64-bit ARM core" in why(ask(device=catalog.device("x86-n100"))).reason
    assert "3 answers of this file would take an emulated core 399 minutes" in why(ask(weights=70_000_000_000)).reason
    with monkeypatch.context() as patched:
        patched.setattr(decoded, "package_here", lambda: None)
        assert why(ask()).remedy == 'pip install "edgedistill[gguf]"'
    lacking = NotMeasured(name="emulation", reason="no root", remedy="make one")
    monkeypatch.setattr(emulated, "missing", lambda needed=None: lacking if needed == arm64_root.DECODING else None)
    assert why(ask()) == replace(lacking, name="answers_equal")
    assert emulator.prompts == []


@pytest.mark.parametrize(
    ("installed", "taken"),
    [
        ({**arm64_root.DECODING, "llama-cpp-python": "0.3.36"}, tuple(*arm64_root.DECODING.items())),
        ({"xllamacpp": "1.0", "llama-cpp-python": "0.3.36"}, ("llama-cpp-python", "0.3.36")),
        ({}, None),
    ],
)
def test_the_emulated_package_is_taken_here_too_if_it_has_the_same_version(
    installed: dict[str, str], taken: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert decoded.package_here() == taken


@pytest.mark.skipif(not CAN_DECODE, reason="needs an arm64 root with llama.cpp: edgedistill doctor --setup-emulator")
def test_an_emulated_core_writes_what_this_machine_writes(ask: Callable[..., Found]) -> None:
    found = by_name(ask())
    assert found["answers_equal"] == (1.0,)
