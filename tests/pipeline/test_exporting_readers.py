"""`edgedistill export` of what points at answers and of static students: bundles that run, and what is refused."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertForQuestionAnswering

from edgedistill import catalog, pipeline
from edgedistill.bench import rows as asking
from edgedistill.bundle import manifest
from edgedistill.config import Request, read_request
from edgedistill.distill import static
from edgedistill.errors import InputError, PlanRefused
from edgedistill.pipeline.exporting import recipes_for
from edgedistill.runtime import engine_onnx, engine_static
from edgedistill.teachers import local
from edgedistill.types import NotMeasured
from tests.conftest import FILLER
from tests.conftest import LABELS as WORDS
from tests.pipeline.requests import write_rows

LABELS = ("door", "light", "music")
ANSWERS = ("lamp", "song", "key")
QUESTION = "which is it please"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Path:
    """A checkpoint that points at the words lamp, song and key, whose embeddings its head looks for."""
    folder = tmp_path_factory.mktemp("made") / "reader"
    tokenizer = Tokenizer.from_file(str(tiny_teacher / "tokenizer.json"))
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=48,
    )
    model = BertForQuestionAnswering(config).train(False)
    with torch.no_grad():
        embeddings = model.bert.embeddings.word_embeddings.weight.normal_()
        wanted = embeddings[tokenizer.token_to_id(ANSWERS[0])].clone()
        for word in ANSWERS[1:]:
            embeddings[tokenizer.token_to_id(word)] = wanted + 0.1 * torch.randn(32)
        model.qa_outputs.weight.copy_(wanted.expand(2, 32))
    folder.mkdir()
    local.save(model, folder)
    shutil.copyfile(tiny_teacher / "tokenizer.json", folder / "tokenizer.json")
    return folder


def answered(count: int, seed: int) -> list[dict[str, str]]:
    """Rows whose answer is the one word of the context that the reader looks for."""
    chance, rows = random.Random(seed), []
    for _ in range(count):
        words = chance.sample(FILLER, 8)
        answer = chance.choice(ANSWERS)
        words.insert(chance.randrange(9), answer)
        rows.append({"question": QUESTION, "context": " ".join(words), "answer": answer})
    return rows


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = {name: answered(count, count) for name, count in (("train", 40), ("validation", 20), ("test", 15))}
    return write_rows(tmp_path_factory.mktemp("qa") / "rows", splits)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Path:
    """A static student of random weights."""
    folder = tmp_path_factory.mktemp("made") / "tables"
    folder.mkdir()
    tokenizer = Tokenizer.from_file(str(tiny_teacher / "tokenizer.json"))
    torch.manual_seed(2)
    shape = static.StaticShape(width=8, features=16, labels=3)
    static.save(static.StaticStudent(torch.randn(tokenizer.get_vocab_size(), 8), shape), tokenizer, folder)
    static.write_manifest(folder, LABELS, 24)
    return folder


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Request]:
    monkeypatch.setenv("EDGEDISTILL_AARCH64_ROOT", str(tmp_path / "none"))  # nothing is emulated

    def make(**changes: Any) -> Request:
        return read_request(**({"target": "raspberrypi5", "out": tmp_path / "dist"} | changes))

    return make


def starting_at(request: Request, recipe: str) -> Request:
    return request.model_copy(update={"export": request.export.model_copy(update={"recipe": recipe})})


def run(bundle: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime", *arguments]
    return subprocess.run(command, cwd=bundle, input=stdin, capture_output=True, text=True, check=False)


def test_a_reader_becomes_a_bundle_that_points_at_answers(
    reader: Path, questions: Path, asked: Callable[..., Request], tmp_path: Path
) -> None:
    made = pipeline.export(asked(data=str(questions)), str(reader))
    assert (made.kind, made.recipe, made.metric) == ("reader", "onnx-int8-dynamic", "token F1")
    assert (made.reference, made.judged_on) == (1.0, "the answers of 20 rows")
    assert made.candidates[0].reason.endswith("exact match 1.0000, before 1.0000")
    assert made.parity["top1_agreement"] == made.parity["same_span"] == 1
    assert made.latency is not None
    (emulated,) = made.on_target
    assert isinstance(emulated, NotMeasured)
    assert manifest.verify(made.bundle).manifest["model"]["max_tokens"] == 48

    context = "turn it now, in the kitchen: my Lamp!"
    done = run(made.bundle, "predict", "--json", f"{QUESTION}\t{context}")
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told.items() >= {"question": QUESTION, "answer": "Lamp", "start": 32, "end": 36}.items()
    assert told["score"] > 0.9
    # Far beyond the 48 pieces that the model reads at once.
    (tmp_path / "long.txt").write_text(f"{' '.join(FILLER * 8)} song\n{' '.join(FILLER * 8)}")
    done = run(made.bundle, "predict", "--context", str(tmp_path / "long.txt"), stdin=f"{QUESTION}\nwhich\n")
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["song", "song"]

    for given, said in (
        ("no tab", "write a tab"),
        (f" \t{context}", "question is empty"),
        ("x\t ", "context is empty"),
    ):
        done = run(made.bundle, "predict", given)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert said in done.stderr
    (tmp_path / "texts.json").write_text(json.dumps([[QUESTION, context]]))
    done = run(made.bundle, "measure", "--texts", str(tmp_path / "texts.json"), "--what", "answers")
    ((start, end, score),) = json.loads(done.stdout)["spans"]
    assert (start, end, score > 0.9) == (32, 36, True)


def test_without_rows_a_reader_is_held_against_its_own_spans(
    reader: Path, asked: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgedistill.pipeline.exporting.reader.ROWS", 20)
    made = pipeline.export(starting_at(asked(task="qa"), "onnx-fp16"), str(reader))
    assert (made.metric, made.reference) == ("agreement", 1)
    assert made.judged_on.endswith("questions that come with edgedistill")
    assert any("--data" in note for note in made.notes)


def test_rows_whose_answer_is_not_in_their_context_are_left_out_and_counted(
    reader: Path, asked: Callable[..., Request], tmp_path: Path
) -> None:
    rows = {"train": answered(30, 1), "validation": answered(12, 2), "test": answered(12, 3)}
    rows["validation"][3]["answer"] = "nowhere"
    rows["validation"][5]["question"] = "which " * 60
    made = pipeline.export(asked(data=str(write_rows(tmp_path / "rows", rows))), str(reader))
    assert made.judged_on == "the answers of 10 rows"
    assert any(note.startswith("2 rows were left out") for note in made.notes)
    for row in rows["validation"]:
        row["answer"] = "nowhere"
    with pytest.raises(InputError, match="none of 12 validation rows can be used"):
        pipeline.export(asked(data=str(write_rows(tmp_path / "none", rows))), str(reader))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("head", "no head with a start and an end"),
        ("types", "one token type"),
        ("family", "family 'roberta'"),
        ("task", "points at answers, and the task is math"),
    ],
)
def test_what_is_no_reader_is_one_clear_error(
    spoil: str, said: str, reader: Path, sorter_weights: Path, asked: Callable[..., Request], tmp_path: Path
) -> None:
    folder = tmp_path / "spoiled"
    shutil.copytree(reader, folder)
    config = json.loads((folder / "config.json").read_text())
    if spoil == "head":
        shutil.copyfile(sorter_weights, folder / "model.safetensors")
    elif spoil == "types":
        config["type_vocab_size"] = 1
    elif spoil == "family":
        config["model_type"] = "roberta"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=said):
        pipeline.export(asked(task="math" if spoil == "task" else "qa"), str(folder))


@pytest.fixture(scope="module")
def sorter_weights(tiny_teacher: Path) -> Path:
    """Weights without a head."""
    return tiny_teacher / "model.safetensors"


def test_a_static_student_becomes_a_bundle_that_needs_numpy_alone(
    tables: Path, tiny_rows: Path, asked: Callable[..., Request]
) -> None:
    made = pipeline.export(asked(data=str(tiny_rows)), str(tables))
    assert (made.kind, made.recipe, made.metric) == ("static classifier", "numpy-int8", "accuracy")
    assert [one.passed for one in made.candidates] == [True]
    assert made.parity["max_error"] == 0
    assert made.fit.measured is not None
    assert "onnxruntime" not in (made.bundle / "requirements.txt").read_text()
    texts = ["open the door please", "a very bright lamp"]
    expected = engine_static.Classifier(tables)(texts).argmax(axis=1)
    done = run(made.bundle, "predict", *texts)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [LABELS[number] for number in expected]
    with pytest.raises(InputError, match="reads single texts, and the rows are pairs"):
        pipeline.export(asked(data=str(pairs_of(tiny_rows, made.bundle.parent)), task="nli"), str(tables))


def pairs_of(rows: Path, folder: Path) -> Path:
    splits = {}
    for name in ("train", "validation", "test"):
        found = [json.loads(line) for line in (rows / f"{name}.jsonl").read_text().splitlines()]
        splits[name] = [{"premise": row["text"], "hypothesis": "it is", "label": row["label"]} for row in found]
    return write_rows(folder / "pairs", splits)


def test_the_same_student_as_a_graph_answers_the_same_in_onnxruntime(
    tables: Path, asked: Callable[..., Request]
) -> None:
    made = pipeline.export(starting_at(asked(target="cpu"), "onnx-int8-tables"), str(tables))
    assert (made.recipe, made.metric) == ("onnx-int8-tables", "agreement")
    assert made.parity["max_error"] < 1e-5
    texts = [" ".join(words) for words in WORDS.values()]
    found = engine_onnx.Classifier(made.bundle)(texts)
    assert abs(found - engine_static.Classifier(tables)(texts)).max() < 1e-5
    assert asking.read(manifest.read(made.bundle).manifest, None).texts


def test_a_board_with_one_engine_gets_the_file_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = (Path(pipeline.__file__).parents[2] / "devices" / "raspberrypi5.toml").read_text()
    (tmp_path / "devices").mkdir()
    mine = re.sub(r"(?m)^engines = \[.*\]$", 'engines = ["onnxruntime"]', board)
    assert mine != board
    (tmp_path / "devices" / "mine.toml").write_text(mine.replace('["raspberrypi", "rpi5", "pi5"]', "[]"))
    monkeypatch.chdir(tmp_path)

    def names(board: str, asked: str | None = None) -> list[str]:
        return [recipe.name for recipe in recipes_for("static classifier", catalog.device(board), asked)]

    graphs = ["onnx-int8-tables", "onnx-fp16", "onnx-fp32"]
    assert names("raspberrypi5") == ["numpy-int8"]
    assert names("raspberrypi5", "onnx-int8-tables") == graphs
    assert names("mine") == graphs
    assert names("iot-armv7") == ["numpy-int8"]
    for kind in ("classifier", "reader"):
        offered = [recipe.name for recipe in recipes_for(kind, catalog.device("raspberrypi5"), None)]  # type: ignore[arg-type]
        assert "onnx-int8-tables" not in offered
    with pytest.raises(PlanRefused, match="a static classifier is exported for numpy or onnxruntime"):
        names("browser")
