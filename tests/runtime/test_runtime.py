"""What goes onto the device: it answers like the engine itself, says its errors in one line, and needs little."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from edgedistill import runtime
from edgedistill.export.onnx import to_onnx
from edgedistill.runtime import measure
from edgedistill.runtime.__main__ import main
from edgedistill.runtime.engine_onnx import Classifier, probabilities, session
from edgedistill.teachers import local

LABELS = ("door", "light", "music")
TEXTS = ("turn the lamp very bright", "song", "please lock my door now today in the hall, it is dark!")
SOURCES = Path(runtime.__file__).parent
NEEDED = {"numpy", "tokenizers", "onnxruntime"}
ENGINES = {"engine_llama.py": {"llama_cpp"}, "engine_genai.py": {"onnxruntime_genai"}}
"""What a decoder's device has in the place of onnxruntime."""
TOLD = {"clock_hz", "max_clock_hz", "governor", "temperature_c", "throttled"}
"""About a device, before and after a timed part."""


@pytest.fixture(scope="module")
def bundle(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that runs, with a student of random answers."""
    folder = tmp_path_factory.mktemp("bundle")
    model = local.load(tiny_teacher, LABELS)
    local.save(model, folder / "checkpoint")
    (folder / "model").mkdir()
    to_onnx(folder / "checkpoint", folder / "model" / "model.onnx")
    shutil.rmtree(folder / "checkpoint")
    shutil.copy(tiny_teacher / "tokenizer.json", folder)
    shutil.copytree(SOURCES, folder / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    manifest = {
        "name": "toy",
        "target": "raspberrypi5",
        "engine": {"name": "onnxruntime", "version": "1.26.0", "threads": 1},
        "model": {"file": "model/model.onnx", "labels": list(LABELS), "max_tokens": 12, "pad_id": 0},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle to be spoiled."""
    shutil.copytree(bundle, tmp_path / "copy")
    return tmp_path / "copy"


def by_hand(bundle: Path, text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One text, without truncation by the tokenizer and without padding."""
    ids = Tokenizer.from_file(str(bundle / "tokenizer.json")).encode(text).ids
    tokens = np.array([ids if len(ids) <= 12 else [*ids[:11], ids[-1]]])
    engine = session(bundle / "model" / "model.onnx", threads=1)
    found: np.ndarray[Any, np.dtype[np.float32]] = engine.run(
        ["logits"], {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    )[0]
    return found


def run(bundle: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime", *arguments],
        cwd=bundle,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_classifier_answers_like_the_engine_run_by_hand(bundle: Path) -> None:
    classifier = Classifier(bundle)
    for text in TEXTS:
        np.testing.assert_allclose(classifier([text]), by_hand(bundle, text), rtol=1e-5, atol=1e-6)


def test_a_batch_is_answered_like_each_of_its_texts(bundle: Path) -> None:
    classifier = Classifier(bundle, threads=1)
    expected = np.concatenate([classifier([text]) for text in TEXTS])
    np.testing.assert_allclose(classifier(TEXTS), expected, rtol=1e-5, atol=1e-6)


def test_an_empty_text_is_answered_too(bundle: Path) -> None:
    assert np.isfinite(Classifier(bundle)([""])).all()


def test_probabilities_are_a_softmax_that_does_not_overflow() -> None:
    found = probabilities(np.array([[1.0, 2.0, 3.0], [1e4, 0.0, -1e4]], dtype=np.float32))
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found[0], np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum(), rtol=1e-6)
    np.testing.assert_allclose(found[1], [1, 0, 0])


def test_predict_prints_a_label_and_a_score_a_line(bundle: Path) -> None:
    done = run(bundle, "predict", *TEXTS)
    assert (done.returncode, done.stderr) == (0, "")
    expected = probabilities(np.concatenate([by_hand(bundle, text) for text in TEXTS]))
    for line, scores in zip(done.stdout.splitlines(), expected, strict=True):
        label, score = line.split("\t")
        assert label == LABELS[scores.argmax()]
        assert float(score) == pytest.approx(scores.max(), abs=6e-4)


def test_predict_reads_lines_from_standard_input_and_writes_json(bundle: Path) -> None:
    done = run(bundle, "predict", "--json", stdin="the lamp\nsöng 水\n")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == ["the lamp", "söng 水"]
    for answer in answers:
        assert answer["label"] in LABELS
        assert 1 / 3 <= answer["probability"] <= 1


def test_predict_with_a_dash_answers_each_line_as_it_comes_in_json(bundle: Path) -> None:
    command = [sys.executable, "-m", "runtime", "predict", "-"]
    with subprocess.Popen(command, cwd=bundle, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text in ("the lamp", "", "söng 水 - -"):
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())  # while more is to come
            assert answer["text"] == text
            assert answer["label"] in LABELS
        process.stdin.close()
        assert process.wait() == 0


def test_info_prints_what_the_bundle_is(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(bundle), "info"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "toy"
    assert found["model"]["labels"] == list(LABELS)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("manifest.json", None),
        ("manifest.json", b""),
        ("manifest.json", b"{}"),
        ("manifest.json", b"[]"),
        ("manifest.json", b"\xff\xfe"),
        ("tokenizer.json", None),
        ("tokenizer.json", b'{"model": '),
        ("model/model.onnx", None),
        ("model/model.onnx", b""),
        ("model/model.onnx", b"not a graph"),
    ],
)
def test_a_broken_bundle_is_one_line_on_standard_error_and_status_1(
    copy: Path, file: str, content: bytes | None, capfd: pytest.CaptureFixture[str]
) -> None:
    if content is None:
        (copy / file).unlink()
    else:
        (copy / file).write_bytes(content)
    assert main(["--bundle", str(copy), "predict", "the lamp"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert str(copy) in err


def test_a_broken_bundle_ends_its_process_with_status_1(copy: Path) -> None:
    (copy / "model" / "model.onnx").write_bytes(b"not a graph")
    done = run(copy, "predict", "the lamp")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("runtime: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("what", ["timing", "memory", "answers"])
def test_measure_prints_json_for_the_host(bundle: Path, tmp_path: Path, what: str) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    done = run(bundle, "--threads", "1", "measure", "--texts", str(tmp_path / "texts.json"), "--what", what)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if what == "answers":
        expected = np.concatenate([by_hand(bundle, text) for text in TEXTS])
        np.testing.assert_allclose(found["logits"], expected, rtol=1e-5, atol=1e-6)
    elif what == "timing":
        assert len(found["latency_ms"]) == len(TEXTS)
    else:
        assert {"engine", "model", "process"} <= found.keys()
    assert [snapshot.keys() for snapshot in found["conditions"]] == [TOLD, TOLD]
    assert {"seconds", "foreign_cores", "waited_share", "energy_j", "energy_reason"} <= found.keys()


class Sleeper:
    """Answers after a while, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> None:
        self.asked.append(list(texts))
        time.sleep(0.002)


def test_timing_times_each_text_once_after_a_warm_up() -> None:
    sleeper = Sleeper()

    def load() -> Sleeper:
        time.sleep(0.05)
        return sleeper

    texts = [f"text {number}" for number in range(10)]
    found = measure.timing(load, texts, batch_rows=4)
    assert 50 <= found["load_ms"] < 1000
    assert found["first_answer_ms"] >= 2
    assert len(found["latency_ms"]) == 10
    assert all(2 <= sample < 1000 for sample in found["latency_ms"])
    assert found["warm_up_calls"] >= 2 * measure.WINDOW
    assert sleeper.asked[0] == ["text 0"]
    timed = 1 + found["warm_up_calls"]
    assert sleeper.asked[timed : timed + 10] == [[text] for text in texts]
    assert found["ended_by"] == "once"
    assert [len(window) for window in found["anchors_ms"]] == [measure.WINDOW] * 2
    anchors = sleeper.asked[timed - measure.WINDOW : timed]
    assert sleeper.asked[timed + 10 : timed + 10 + measure.WINDOW] == anchors
    assert len(found["throughput_rows_s"]) == 2
    assert all(0 < sample <= 4 / 0.002 for sample in found["throughput_rows_s"])
    assert 0 <= found["cpu_share"] < 0.9  # it slept


def test_fewer_texts_than_a_batch_are_one_batch() -> None:
    found = measure.timing(lambda: Sleeper(), ["a", "b"], batch_rows=32)
    assert len(found["throughput_rows_s"]) == 1


def test_a_clock_that_does_not_settle_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(1, 10_000))
    monkeypatch.setattr(measure, "_once", lambda *_: float(2 ** (next(times) // measure.WINDOW)))
    calls, steady, last = measure.warm_up(lambda: measure._window(lambda _: None, ["a"] * measure.WINDOW), 60)
    assert not steady
    assert calls == measure.MAX_WINDOWS * measure.WINDOW
    assert len(last) == measure.WINDOW


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")
def test_the_cold_start_counts_from_the_start_of_the_process(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    started = time.monotonic()
    done = run(bundle, "measure", "--texts", str(tmp_path / "texts.json"))
    passed = 1e3 * (time.monotonic() - started)
    found = json.loads(done.stdout)
    assert found["load_ms"] + found["first_answer_ms"] < found["cold_start_ms"] <= passed + 20


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells")
def test_memory_is_told_by_kind_and_counts_what_the_model_holds() -> None:
    held: list[bytearray] = []

    def load() -> measure.Answer:
        held.append(bytearray(b"x" * 40_000_000))
        return len

    found = measure.memory(load, ["a"])
    for part in (found["engine"], found["model"], found["process"]):
        assert part.keys() == {"rss", "anonymous", "file", "swap", "peak"}
        assert part["rss"] == part["anonymous"] + part["file"]
    assert found["process"]["peak"] >= found["process"]["rss"]
    assert 35e6 < found["model"]["anonymous"] + found["model"]["swap"] < 90e6
    assert found["process"]["rss"] == found["engine"]["rss"] + found["model"]["rss"]


def test_where_the_system_does_not_tell_memory_is_none_and_never_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "resident", lambda: None)
    found = measure.memory(lambda: len, ["a"])
    assert (found["engine"], found["model"], found["process"]) == (None, None, None)


def imports(path: Path) -> set[str]:
    """The top of every absolute module that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", sorted(SOURCES.glob("*.py")), ids=lambda path: path.name)
def test_the_runtime_imports_nothing_but_what_the_device_has(path: Path) -> None:
    allowed = NEEDED - {"onnxruntime"} | ENGINES[path.name] if path.name in ENGINES else NEEDED
    assert imports(path) - sys.stdlib_module_names <= allowed


def test_a_classifier_is_asked_to_predict_and_not_to_chat(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(bundle), "chat", "hello"]) == 1
    assert "use predict" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(SOURCES.glob("*.py")), ids=lambda path: path.name)
def test_the_runtime_imports_of_itself_only_what_is_beside_it(path: Path) -> None:
    levels = [node.level for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    assert max(levels, default=0) <= 1
