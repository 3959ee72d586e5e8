"""An emulated core answers like this machine, and its memory is the program's and not the emulator's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistill.bundle.assemble import pack
from edgedistill.errors import InputError, StageError
from edgedistill.export.onnx import to_onnx
from edgedistill.links import emulated, guest
from edgedistill.links.address import connect
from edgedistill.links.emulated import Emulated
from edgedistill.runtime.engine_onnx import Classifier
from edgedistill.teachers import local
from edgedistill.types import Cell

LABELS = ("door", "light", "music")
TEXTS = ["turn the lamp very bright", "song", "", "please lock my door now today in the hall, it is dark!"]
MEASURE = ["-m", "runtime", "--threads", "1", "measure", "--texts", "{files}/texts.json", "--what"]
lacking = emulated.missing()
real = pytest.mark.skipif(lacking is not None, reason=lacking.reason if lacking else "")


@pytest.fixture(scope="module")
def bundle(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    model = local.load(tiny_teacher, LABELS)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.15)
    local.save(model, folder / "checkpoint")
    to_onnx(folder / "checkpoint", folder / "model.onnx")
    (folder / "toy").mkdir()
    told = {"labels": list(LABELS), "max_tokens": 12, "pad_id": 0}
    pack(
        folder / "toy",
        [folder / "model.onnx"],
        {"name": "toy", "target": "raspberrypi4", "task": "classification", "model": told},
        engine="onnxruntime",
        threads=1,
        tokenizer=tiny_teacher / "tokenizer.json",
    )
    return folder / "toy"


@real
def test_an_emulated_core_answers_like_this_machine(bundle: Path) -> None:
    with connect("emulated://cortex-a72") as link:
        assert isinstance(link, Emulated)
        facts = link.look(bundle)
        assert (link.kind, facts["machine"]) == ("emulated", "aarch64")
        files = {"texts.json": json.dumps(TEXTS).encode()}
        out = link.python([*MEASURE, "answers"], where=link.put(bundle), files=files, timeout_s=120, threads=1)
    expected = np.concatenate([Classifier(bundle)([text]) for text in TEXTS])
    assert np.ptp(expected, axis=0).min() > 0.05
    np.testing.assert_allclose(json.loads(out)["logits"], expected, atol=1e-4)


@real
def test_memory_is_what_the_program_asked_for_without_the_emulator(tmp_path: Path) -> None:
    """A module in the place of the bundle's runtime holds 40 MB in pages of its own and reads 24 MB of a file."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    (tmp_path / "file").write_bytes(b"x" * 24_000_000)
    (folder / "__init__.py").touch()
    (folder / "measure.py").write_text("def resident():\n    raise SystemExit('the emulator was counted')\n")
    (folder / "__main__.py").write_text(
        "import json, mmap\n"
        "from runtime import measure\n"
        "code = [compile(f'x = {n} + {n} * y if y else [{n}]', '', 'exec') for n in range(500)]\n"
        "before = measure.resident()\n"
        "held = mmap.mmap(-1, 40_000_000, flags=mmap.MAP_PRIVATE)\n"
        "for place in range(0, len(held), 4096):\n    held[place] = 1\n"
        "with open('file', 'rb') as file:\n    read = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "seen = sum(read[place] for place in range(0, len(read), 4096))\n"
        "after = measure.resident()\n"
        "print(json.dumps({key: after[key] - before[key] for key in after}))\n"
    )
    link = connect("emulated://cortex-a53")
    assert isinstance(link, Emulated)
    found = json.loads(link.python(["-m", "runtime"], where=link.put(tmp_path), files={}, timeout_s=120, threads=1))
    assert found["anonymous"] == pytest.approx(40e6, rel=0.02)
    assert found["file"] == pytest.approx(24e6, rel=0.02)
    assert found["rss"] == found["anonymous"] + found["file"]


def test_memory_that_is_larger_on_the_host_counts_for_the_programs_share() -> None:
    def piece(start: int, end: int, kib: int) -> str:
        place = f"{start:x}-{end:x} rw-p 00000000 00:00 0\n"
        return f"{place}Rss: {kib} kB\nPss: 1 kB\nAnonymous: {kib} kB\nSwap: 0 kB\nVmFlags: rd wr\n"

    # A heap that grew from 3 to 4 MB between the readings, one piece of two of the program, and one of the emulator.
    smaps = piece(0x100000, 0x500000, 4096) + piece(0x600000, 0x700000, 1024) + piece(0x900000, 0xA00000, 512)
    maps = "100000-400000 rw-p\n600000-680000 rw-p\n680000-700000 r--p\n"
    found = guest.counted(smaps, maps)
    assert found is not None
    assert found["rss"] == found["anonymous"] == found["peak"] == (3 + 1) * 2**20
    assert (found["file"], found["swap"]) == (0, 0)
    assert guest.counted(smaps, "b00000-c00000 rw-p\n") is None


def test_the_emulators_own_peak_is_not_passed_on() -> None:
    split = {"rss": 1, "anonymous": 1, "file": 0, "swap": 0, "peak": 99}
    found = emulated.without_peak({"process": split, "engine": None, "seconds": 1.0, "conditions": [{}, {}]})
    rest = {"engine": None, "seconds": 1.0, "conditions": [{}, {}], "reason": emulated.NO_PEAK}
    assert found == {"process": {**split, "peak": None}, **rest}


@pytest.mark.parametrize("address", ["emulated://cortex-m4", "emulated://", "emulated://cortex-a72/x"])
def test_an_unknown_core_is_refused_with_the_cores_there_are(address: str) -> None:
    with pytest.raises(InputError) as refused:
        connect(address)
    assert refused.value.hint == "emulated://cortex-a53 or emulated://cortex-a72 or emulated://cortex-a76"


@pytest.mark.parametrize("what", ["timing", "writing"])
def test_an_emulated_core_is_never_asked_for_times(what: str, bundle: Path) -> None:
    cell = Cell(what="timing" if what == "timing" else "writing")
    with pytest.raises(InputError, match=f"has no clock to ask for {what}"):
        connect("emulated://cortex-a72").measure(bundle, TEXTS, cell)


def test_a_look_says_what_is_missing_and_how_to_get_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle, tmp_path / "toy")
    (tmp_path / "toy" / "requirements.txt").write_text("llama-cpp-python==0.3.36\n")
    with pytest.raises(StageError, match="runs on llama-cpp-python, and emulated bundles run on onnxruntime, numpy"):
        connect("emulated://cortex-a72").look(tmp_path / "toy")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StageError, match="qemu-aarch64-static is not installed") as refused:
        connect("emulated://cortex-a72").look(bundle)
    assert refused.value.hint is not None
    assert "edgedistill doctor --setup-emulator" in refused.value.hint
