"""The teacher becomes a bundle by the bundle's own recipe, once; and its answers cost what the ledger says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgedistill import catalog
from edgedistill.bundle import manifest
from edgedistill.config import Data, Request
from edgedistill.links.local import Local
from edgedistill.pipeline import baselines
from edgedistill.teachers import local
from edgedistill.types import DeviceRun, Result

LABELS = ("door", "light", "music")


@pytest.fixture(scope="module")
def sorter(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of random answers."""
    folder = tmp_path_factory.mktemp("sorter")
    local.save(local.load(tiny_teacher, LABELS), folder)
    (folder / local.TOKENIZER).write_bytes((tiny_teacher / local.TOKENIZER).read_bytes())
    return folder


def request_of(tmp_path: Path, rows: Path) -> Request:
    data = Data(folder=str(rows), max_tokens=32)
    return Request(name="toy", target="cpu", out=tmp_path / "dist", data=data)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "toy-raspberrypi5"
    folder.mkdir()
    model = {"recipe": "onnx-fp32", "labels": ["light", "music", "door"], "max_tokens": 24}
    manifest.seal(
        folder,
        {
            "name": "toy",
            "target": "raspberrypi5",
            "task": "classifier",
            "engine": {"name": "onnxruntime"},
            "model": model,
        },
    )
    return folder


def test_the_teacher_is_exported_by_the_bundles_recipe_and_once(
    tmp_path: Path,
    sorter: Path,
    tiny_rows: Path,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = request_of(tmp_path, tiny_rows)
    found = baselines.baselines(request, str(sorter), bundle, [Local()])
    inside, exported = found.entrants
    assert (inside.contender, exported.contender, found.remarks) == ("teacher", "teacher exported", ())
    told = manifest.verify(exported.folder).manifest
    assert (told["model"]["recipe"], told["target"]) == ("onnx-fp32", "raspberrypi5")
    monkeypatch.setattr(baselines, "source_of", lambda *_: pytest.fail("it was made again"))
    assert baselines.teacher_bundle(request, str(sorter), bundle) == exported.folder


def test_a_teacher_that_is_no_bundle_is_still_measured_here(
    tmp_path: Path,
    sorter: Path,
    tiny_rows: Path,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: Any) -> None:
        raise baselines.StageError("no recipe answers like it")

    monkeypatch.setattr(baselines, "source_of", refused)
    found = baselines.baselines(request_of(tmp_path, tiny_rows), str(sorter), bundle, [Local()])
    assert [entrant.contender for entrant in found.entrants] == ["teacher"]
    assert found.remarks == ("the teacher is no bundle: no recipe answers like it",)


def test_a_recipe_of_another_kind_gives_way_to_the_smallest() -> None:
    device = catalog.device("raspberrypi5")
    assert baselines._recipes("classifier", device, "onnx-fp32")[0].name == "onnx-fp32"
    tables = next(one.name for one in catalog.recipes() if one.scheme == "tables")
    assert baselines._recipes("classifier", device, tables) == baselines._recipes("classifier", device, "nonsense")


def test_a_thousand_answers_cost_what_the_ledger_says(bundle: Path) -> None:
    def cost(**teachers: Any) -> float | None:
        rows = bundle.parent / "toy-rows"
        rows.mkdir(exist_ok=True)
        (rows / "ledger.json").write_text(json.dumps({"teachers": teachers}))
        return baselines.teacher_cost(bundle)

    here = {"usd": 0.0, "answered": 900}
    paid = {"usd": 0.5, "answered": 200}
    assert baselines.teacher_cost(bundle) is None
    assert cost(a=paid, b=here) == 2.5
    assert cost(a=paid, c={"usd": 1.0, "answered": 300}) == 3.0
    assert cost(b=here, d={"usd": None, "answered": 5}) is None
    report = bundle.parent / "toy-raspberrypi5.json"
    report.write_text(json.dumps({"data": {"labelling": {"teachers": {"a": {"usd": 4.0, "answered": 1000}}}}}))
    assert cost(a=paid) == 4.0  # the build's own record stands above what lies there now
    report.write_text("[]")
    assert cost(a=paid) == 2.5


def test_a_result_gets_its_ratios_and_remarks() -> None:
    runs: tuple[DeviceRun, ...] = ()
    plain = Result(schema=1, version="0", created="", bundle={}, workload={}, runs=runs, remarks=("a",))
    found = baselines.compared(plain, baselines.Baselines(entrants=(), remarks=("b",)))
    assert (found.ratios, found.remarks) == ((), ("a", "b"))
