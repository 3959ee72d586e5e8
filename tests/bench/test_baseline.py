"""The teacher takes part in a benchmark like the bundle, and ratios are only of what was measured alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification

from edgedistill.bench import baseline, teacher
from edgedistill.bundle import assemble
from edgedistill.errors import InputError, PlanRefused
from edgedistill.links.link import Link
from edgedistill.links.local import Local
from edgedistill.teachers.local import TOKENIZER, quiet
from edgedistill.types import Cell, Contender, DeviceRun, Kind, Taken, What
from tests.bench.python_link import Here
from tests.export.seq2seqs import save
from tests.teachers.checkpoints import decoder

LABELS = ("door", "light", "music")
TEXTS = ["turn the lamp very bright", "song", "please lock my door now"]
CELL = {"batch_rows": 2, "limit_s": 5.0}


@pytest.fixture(scope="module")
def checkpoint(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _checkpoint(tmp_path_factory.mktemp("classifier"), tiny_teacher, BertForSequenceClassification)


def _checkpoint(folder: Path, tiny_teacher: Path, kind: Any) -> Path:
    told = json.loads((tiny_teacher / "config.json").read_text())
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = BertConfig(**{name: told[name] for name in sizes}, max_position_embeddings=64)
    if kind is BertForSequenceClassification:
        config.id2label, config.num_labels = dict(enumerate(LABELS)), len(LABELS)
    torch.manual_seed(1)
    with quiet():
        kind(config).save_pretrained(folder)
    (folder / TOKENIZER).write_bytes((tiny_teacher / TOKENIZER).read_bytes())
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}'
    )
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """As much of a bundle as a comparison reads."""
    return _bundle(tmp_path / "bundle", ["music", "door", "curtain"])


def _bundle(folder: Path, labels: Sequence[str], engine: str = "onnxruntime") -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.onnx").write_bytes(b"x" * 1000)
    (folder / TOKENIZER).write_bytes(b"{}")
    assemble.copy_runtime(folder)
    told = {
        "name": "toy",
        "engine": {"name": engine, "version": "1"},
        "model": {"recipe": "onnx-fp32", "labels": list(labels)},
    }
    (folder / "manifest.json").write_text(json.dumps(told))
    return folder


def test_a_classifier_is_asked_one_by_one_in_batches_and_for_its_memory(checkpoint: Path) -> None:
    timed = teacher.samples(checkpoint, TEXTS, "timing", CELL, 32)
    assert len(timed["latency_ms"]) == len(TEXTS)
    assert timed["throughput_rows_s"]
    assert min(timed["reference_ms"]) > 0
    said = teacher.samples(checkpoint, TEXTS, "answers", CELL, 32)["logits"]
    assert [len(row) for row in said] == [3, 3, 3]
    assert teacher.samples(checkpoint, TEXTS, "memory", CELL, 32).keys() >= {"engine", "model", "process"}


def test_a_pair_is_two_segments_and_not_one_text(checkpoint: Path) -> None:
    (pair,) = teacher.samples(checkpoint, [["song", "door"]], "answers", CELL, 32)["logits"]
    (text,) = teacher.samples(checkpoint, ["song door"], "answers", CELL, 32)["logits"]
    assert pair != pytest.approx(text)


def test_a_reader_answers_with_spans_of_the_context(tiny_teacher: Path, tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "reader", tiny_teacher, BertForQuestionAnswering)
    context = "the door is open and the lamp is bright " * 8
    (span,) = teacher.samples(folder, [["is the door open", context]], "answers", CELL, 32)["spans"]
    assert 0 <= span[0] < span[1] <= len(context)


def test_a_decoder_writes_greedily_as_it_would_without_kept_keys(tmp_path: Path) -> None:
    model = teacher.Writer(decoder(tmp_path / "decoder"), "ForCausalLM")
    prompt = model.prompt("w1 w2 w3")
    assert prompt == model.prompt([{"role": "user", "content": "w1 w2 w3"}])
    written = list(model.work(prompt, 6))
    with torch.inference_mode():
        for place, token in enumerate(written):
            logits = model._model(input_ids=torch.tensor([prompt + written[:place]])).logits
            assert int(logits[0, -1].argmax()) == token
    assert model.holds(len(prompt), 6)
    assert not model.holds(40, 40)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_model_that_rewrites_does_so_as_it_would_without_kept_keys(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / kind
    folder.mkdir()
    save(folder, kind)
    head = teacher.head_of(folder)
    assert head in teacher.WRITERS
    model = teacher.Rewriter(folder, head)
    prompt = model.prompt("turn the light on, please")
    written = list(model.work(prompt, 6))
    before = [model._model.config.decoder_start_token_id]
    with torch.inference_mode():
        for token in written:
            asked = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([before])}
            assert int(model._model(**asked).logits[0, -1].argmax()) == token
            before.append(token)


def test_a_decoder_is_timed_at_the_lengths_that_are_asked_for(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "decoder")
    asked = CELL | {"prompt_tokens": [8, 16], "new_tokens": 4}
    found = teacher.samples(folder, ["w1 w2", "w3"], "writing", asked, 32)
    assert [prompt["prompt_tokens"] for prompt in found["prompts"]] == [8, 16]
    assert all(len(prompt["token_ms"]) >= 3 for prompt in found["prompts"])
    assert min(found["reference_ms"]) > 0
    assert teacher.samples(folder, ["w1"], "memory", asked, 32).keys() >= {"engine", "model", "process"}


def test_what_does_none_of_these_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    with pytest.raises(ValueError, match="BertForMaskedLM"):
        teacher.head_of(tmp_path)


def test_the_teacher_in_pytorch_answers_with_the_numbers_of_the_bundles_labels(
    bundle: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class InThisProcess(Local):
        """Where a child would import PyTorch once more, which takes seconds."""

        def python(
            self, arguments: Sequence[str], *, where: str, files: Mapping[str, bytes], timeout_s: float, threads: int
        ) -> str:
            assert list(arguments[:2]) == ["-m", "edgedistill.bench.teacher"]
            for name, content in files.items():
                (bundle / name).write_bytes(content)
            monkeypatch.setattr("sys.argv", [part.replace("{files}", str(bundle)) for part in arguments[1:]])
            teacher.main()
            return capsys.readouterr().out

    monkeypatch.setattr(baseline.local, "Local", InThisProcess)
    entrant = baseline.teacher_contender(bundle, checkpoint, 32)
    assert (entrant.contender, entrant.engine, entrant.link.address) == ("teacher", "torch", "local")
    assert entrant.file_bytes > (checkpoint / "model.safetensors").stat().st_size
    said = entrant.link.measure(entrant.folder, TEXTS, Cell(what="answers", limit_s=5.0))["logits"]
    plain = teacher.samples(checkpoint, TEXTS, "answers", CELL, 32)["logits"]
    for ours, theirs in zip(said, plain, strict=True):
        # music, door, curtain (which the teacher lacks), and its own light, which is never right
        assert ours == pytest.approx([theirs[2], theirs[0], baseline.NEVER, theirs[1]], rel=1e-4)


class Board(Link):
    """A device with little memory; nothing is measured on it."""

    def __init__(self, ram_bytes: int | None) -> None:
        super().__init__("ssh://pi@kitchen", "a small board")
        self.ram_bytes = ram_bytes
        self.asked = 0

    def look(self, bundle: Path | None = None) -> Mapping[str, Any]:
        return {"ram_bytes": self.ram_bytes}

    def measure(self, bundle: Path, texts: Sequence[Any], cell: Cell) -> Mapping[str, Any]:
        self.asked += 1
        return {"logits": [[1.0, 2.0, 3.0]]}


def test_a_teacher_that_does_not_fit_is_told_with_the_arithmetic(bundle: Path, tmp_path: Path) -> None:
    exported = _bundle(tmp_path / "teacher", LABELS)
    entrant = baseline.exported_contender(bundle, exported, Board(50_000_000))
    with pytest.raises(
        PlanRefused, match=r"needs 55 MB \(runtime 55 \+ weights 0 \+ packed copy 0\), and 50 MB are free"
    ):
        entrant.link.look(exported)
    for enough in (60_000_000, None):  # where nobody tells, it is tried
        there = baseline.exported_contender(bundle, exported, Board(enough))
        assert there.link.look(exported) == {"ram_bytes": enough}
        assert there.link.measure(exported, ["a"], Cell(what="answers"))["logits"] == [[3.0, 1.0, baseline.NEVER, 2.0]]
    assert (there.contender, there.title, there.file_bytes) == ("teacher exported", "teacher, onnx-fp32", 1002)


def test_here_the_exported_teacher_answers_in_the_order_that_devices_answer_in(bundle: Path, tmp_path: Path) -> None:
    exported = _bundle(tmp_path / "teacher", LABELS)

    class Machine(Board):
        def look(self, bundle: Path | None = None) -> Mapping[str, Any]:
            if bundle is not None and bundle.name == "missing":
                raise InputError("the engine is not installed")
            return {}

    host = baseline.Host(Machine(None), bundle)
    cell = Cell(what="answers")
    there = baseline.exported_contender(bundle, exported, Board(None)).link.measure(exported, ["a"], cell)
    assert host.measure(exported, ["a"], cell) == there
    assert host.measure(bundle, ["a"], cell)["logits"] == [[1.0, 2.0, 3.0]]
    with pytest.raises(InputError, match="not installed"):
        host.measure(tmp_path / "missing", ["a"], cell)


def test_what_a_system_says_is_free_counts_more_than_what_was_built_in() -> None:
    asked = Here("MemTotal:  4000 kB\nMemAvailable:    1000 kB\n")
    assert baseline.free_bytes(asked, {"ram_bytes": 4_096_000}) == 1_024_000
    assert baseline.free_bytes(Here(""), {"ram_bytes": 4_096_000}) == 4_096_000


def test_a_teacher_of_other_labels_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    other = _bundle(tmp_path / "other", ["yes", "no"])
    with pytest.raises(InputError, match="door, light, music"):
        baseline.teacher_contender(other, checkpoint, 32)


def run(
    contender: Contender, factor: float, *, link: str = "local", kind: Kind = "measured", **other: Any
) -> DeviceRun:
    """A run in which everything takes, or weighs, a factor."""
    taken: dict[What, Any] = {
        "timing": {"latency_ms": [factor, 1.01 * factor, 0.99 * factor] * 5, "throughput_rows_s": [100 / factor] * 3},
        "memory": {"model": {"rss": 1e6 * factor}},
        "answers": {"answers": [0] * 8, "right": other.get("right", [1] * 8)},
        "writing": {
            "prompts": [
                {"prompt_tokens": length, "decode_tokens_s": [speed / factor] * 3, "prefill_tokens_s": [9 / factor]}
                for length, speed in ((64, 50.0), (256, 20.0))
            ]
        },
    }
    whats: Sequence[What] = other.get("whats", ("timing", "timing", "memory", "answers"))
    return DeviceRun(
        contender=contender,
        title=contender,
        link=link,
        kind=kind,
        engine="none",
        file_bytes=round(1000 * factor),
        environment={},
        asked={},
        in_effect={},
        stable=True,
        taken=tuple(Taken(cell=Cell(what=what), round=0, samples=taken[what]) for what in whats),
    )


def test_ratios_say_how_many_times_better_the_bundle_is() -> None:
    half = [1, 0] * 4
    found = {one.name: one for one in baseline.ratios([run("bundle", 2, right=half), run("teacher", 10)])}
    for name in ("latency", "throughput", "size", "memory"):
        assert found[name].estimate.value == pytest.approx(5), name
        assert (found[name].against, found[name].kind, found[name].link) == ("teacher", "measured", "local")
    assert found["latency"].estimate.low < 5 < found["latency"].estimate.high
    accuracy = found["accuracy"].estimate
    assert (accuracy.value, accuracy.low < 0.5 < accuracy.high) == (0.5, True)
    assert "decode" not in found


def test_models_that_write_are_compared_at_the_longest_prompt_of_both() -> None:
    writes: Sequence[What] = ("writing", "writing")
    found = {
        one.name: one.estimate.value
        for one in baseline.ratios([run("bundle", 1, whats=writes), run("teacher", 4, whats=writes)])
    }
    assert found == pytest.approx({"size": 4, "decode": 4, "prefill": 4})


def test_an_unstable_run_has_no_ratio_of_times() -> None:
    shaky = replace(run("teacher", 4), stable=False)
    assert {one.name for one in baseline.ratios([run("bundle", 1), shaky])} == {"size", "memory", "accuracy"}
    assert baseline.untimed([run("bundle", 1), run("teacher", 4)]) == ()
    (said,) = baseline.untimed([run("bundle", 1), shaky])
    assert said == "no time is held against the teacher on local: the run of the teacher is unstable"


@pytest.mark.parametrize(
    "other",
    [
        run("teacher", 4, link="ssh://pi@kitchen"),
        run("teacher", 4, kind="emulated"),
        run("teacher", 4, whats=()),  # it could not be measured
        run("bundle", 4),
    ],
    ids=["another device", "another kind", "nothing taken", "no baseline"],
)
def test_nothing_is_compared_with_another_device_or_kind(other: DeviceRun) -> None:
    assert baseline.ratios([run("bundle", 1), other]) == ()
