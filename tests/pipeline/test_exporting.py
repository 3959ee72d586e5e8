"""`edgedistill export`: any checkpoint becomes a bundle that runs, or one clear error says why not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers, processors
from transformers import BertConfig, BertForSequenceClassification

from edgedistill import catalog, pipeline, tasks
from edgedistill.bench import rows as asking
from edgedistill.bundle import manifest
from edgedistill.cli import app
from edgedistill.config import Export, Goals, Request, read_request
from edgedistill.distill.generative import PLAIN
from edgedistill.distill.static import write_manifest
from edgedistill.errors import InputError, IntegrityError, MissingExtra, PlanRefused, StageError
from edgedistill.export import ladder as classifier_ladder
from edgedistill.export.decoder import ladder
from edgedistill.pipeline.exporting import others_for, recipes_for
from edgedistill.pipeline.exporting.candidates import Candidate, every, marked
from edgedistill.pipeline.exporting.source import Kind, Source, named
from edgedistill.runtime.engine_genai import Chat as GenaiChat
from edgedistill.runtime.engine_llama import Chat
from edgedistill.runtime.engine_onnx import Classifier, probabilities
from edgedistill.runtime.engine_seq2seq import TextToText
from edgedistill.teachers import local
from edgedistill.types import NotMeasured, Plan, silent
from tests.distill.chats import CHATML, GEMMA, chat_tokenizer
from tests.distill.decoders import decoder
from tests.export.seq2seqs import save
from tests.pipeline.requests import write_rows

LABELS = ("door", "light", "music")


@pytest.fixture(scope="session")
def sorter(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Path:
    """A random classifier of the embedded rows' labels, sure of what it says."""
    folder = tmp_path_factory.mktemp("sorter")
    torch.manual_seed(3)
    told = json.loads((tiny_teacher / "config.json").read_text())
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = BertConfig(
        **{name: told[name] for name in sizes}, max_position_embeddings=64, id2label=dict(enumerate(LABELS))
    )
    model = BertForSequenceClassification(config).train(False)
    with torch.no_grad():
        model.classifier.weight.mul_(60)
        for parameter in model.bert.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    local.save(model, folder)
    shutil.copyfile(tiny_teacher / "tokenizer.json", folder / "tokenizer.json")
    return folder


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Request]:
    """Makes a request with results in a folder of its own, and nothing is emulated."""
    monkeypatch.setenv("EDGEDISTILL_AARCH64_ROOT", str(tmp_path / "none"))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # llama.cpp's threads wait by turning round, and others work here

    def make(**changes: Any) -> Request:
        settings: dict[str, Any] = {"target": "raspberrypi5", "out": tmp_path / "dist"}
        return read_request(changes.pop("config", None), **(settings | changes))

    return make


def test_a_classifier_becomes_a_bundle_that_runs_and_answers_like_it(
    sorter: Path, tiny_rows: Path, asked: Callable[..., Request]
) -> None:
    made = pipeline.export(asked(data=str(tiny_rows)), str(sorter))
    assert made.recipe == "onnx-int8-dynamic"
    assert (made.metric, made.judged_on) == ("accuracy", "30 validation rows")
    assert [one.passed for one in made.candidates] == [True]
    assert made.fit.measured is not None
    assert 0 < made.fit.measured < made.fit.memory_available
    assert made.latency is not None
    assert made.latency.kind == "predicted"
    (emulated,) = made.on_target
    assert isinstance(emulated, NotMeasured)
    assert emulated.remedy is not None
    said = manifest.verify(made.bundle).manifest
    assert said["model"]["labels"] == list(LABELS)
    texts = ["open the door please", "a very bright lamp", "louder music in the hall"]
    with torch.inference_mode():
        model: Any = local.load(sorter, LABELS)
        tokenizer = Tokenizer.from_file(str(sorter / "tokenizer.json"))
        expected = [int(model(torch.tensor([tokenizer.encode(text).ids])).logits.argmax()) for text in texts]
    assert Classifier(made.bundle)(texts).argmax(axis=1).tolist() == expected
    command = [sys.executable, "-m", "runtime", "predict", *texts]
    done = subprocess.run(command, cwd=made.bundle, capture_output=True, text=True, check=True)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [LABELS[number] for number in expected]
    kept = json.loads((made.bundle / "export.json").read_text())
    assert kept["candidates"][0]["reason"] in (made.bundle / "README.md").read_text()


def test_an_app_gets_its_own_file_which_answers_like_the_bundle(
    sorter: Path, tiny_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEDISTILL_AARCH64_ROOT", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    command = ["export", str(sorter), "--target", "raspberrypi5", "--data", str(tiny_rows), "--app"]
    app(command, standalone_mode=False)
    shown = " ".join(capfd.readouterr().out.split())
    (bundle,) = (tmp_path / "dist").iterdir()
    manifest.verify(bundle)
    made = json.loads((bundle / "export.json").read_text())["app"]
    assert made["rows"] == 180
    assert made["max_difference"] <= 1e-4
    assert made["size_bytes"] == (bundle / "app.onnx").stat().st_size
    assert "The same label for each of 180 rows" in shown
    card = (bundle / "README.md").read_text()
    assert "gives 180 rows" in card
    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    text = "the café is dark 水!"
    said = [sys.executable, "-c", program.replace("your text", text)]
    found = subprocess.run(said, cwd=bundle, capture_output=True, text=True, check=True).stdout.split()
    expected = probabilities(Classifier(bundle)([text]))[0]
    assert found[0] == LABELS[expected.argmax()]
    assert float(found[1]) == pytest.approx(expected.max(), abs=1e-5)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("decoder", "app.onnx is made of classifiers, and .* is a decoder"),
        ("pairs", "takes one text, and the task is nli"),
        ("tokenizer", "a tokenizer with Lowercase"),
        ("spans", "made of classifiers, and .* is a reader"),
        ("static", "made of classifiers, and .* is a static classifier"),
    ],
)
def test_what_has_no_form_for_apps_is_refused_before_anything_is_made(
    what: str, said: str, sorter: Path, tiny_writer: Path, pairs: Path, tmp_path: Path, asked: Callable[..., Request]
) -> None:
    folder = tmp_path / "student"
    shutil.copytree(tiny_writer if what == "decoder" else sorter, folder)
    more = {"task": "nli", "data": str(pairs)} if what == "pairs" else {}
    if what == "tokenizer":
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.save(str(folder / "tokenizer.json"))
    elif what == "spans":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForQuestionAnswering"]}))
    elif what == "static":
        (folder / "config.json").unlink()
        write_manifest(folder, LABELS, 32)
    request = asked(**more)
    with pytest.raises((InputError, StageError), match=said):
        pipeline.export(request.model_copy(update={"export": Export(app=True)}), str(folder))
    assert not request.out.exists()


def test_without_rows_a_classifier_is_held_against_itself(sorter: Path, asked: Callable[..., Request]) -> None:
    made = pipeline.export(asked(), str(sorter))
    assert made.metric == "agreement"
    assert made.candidates[0].reason.startswith("agreement")
    assert "--data" in made.notes[0]
    assert made.reference == 1
    assert made.judged_on.endswith("texts that come with edgedistill")


def test_all_recipes_are_made_and_timed_and_the_best_are_marked(
    sorter: Path, tiny_rows: Path, asked: Callable[..., Request]
) -> None:
    made = pipeline.export(asked(data=str(tiny_rows)), str(sorter), all_recipes=True)
    by_name = {one.recipe: one for one in made.candidates}
    assert {"onnx-int8-dynamic", "onnx-int8-static", "onnx-fp32"} <= by_name.keys()
    assert all(one.speed is not None and one.speed > 0 for one in made.candidates if one.size_bytes)
    assert any(one.best for one in made.candidates)
    assert all(one.speed_interval for one in made.candidates if one.speed)
    assert made.recipe == "onnx-int8-dynamic"


def test_a_recipe_that_does_not_hold_is_compared_too_with_what_it_came_to(
    sorter: Path, tiny_rows: Path, asked: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = classifier_ladder.judge

    def strict(recipe: Any, *given: Any, **more: Any) -> dict[str, Any]:
        return real(recipe, *given, **more) | ({} if recipe.bits == 32 else {"passed": False, "reason": "not today"})

    monkeypatch.setattr(classifier_ladder, "judge", strict)
    made = pipeline.export(asked(data=str(tiny_rows)), str(sorter), all_recipes=True)
    half = next(one for one in made.candidates if one.recipe == "onnx-fp16")
    assert (half.passed, half.reason) == (False, "not today")
    assert half.size_bytes is not None
    assert half.quality is not None
    assert made.recipe == "onnx-fp32"


def test_pairs_are_exported_as_pairs(sorter: Path, pairs: Path, tmp_path: Path, asked: Callable[..., Request]) -> None:
    folder = tmp_path / "pairs"
    shutil.copytree(sorter, folder)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {0: "contradiction", 1: "entailment", 2: "neutral"}
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "edgedistill.toml").write_text(
        f'task = "nli"\n[data]\nfolder = "{pairs}"\ntext = "premise"\nsecond = "hypothesis"\n'
    )
    made = pipeline.export(asked(config=tmp_path / "edgedistill.toml"), str(folder))
    classifier = Classifier(made.bundle)
    assert classifier.pairs
    pair = ("the light", "light kitchen")
    with torch.inference_mode():
        model: Any = local.load(folder, ("contradiction", "entailment", "neutral"))
        encoding = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(*pair)
        expected = model(torch.tensor([encoding.ids]), token_type_ids=torch.tensor([encoding.type_ids])).logits
    assert classifier([pair]).argmax() == expected.argmax()
    command = [sys.executable, "-m", "runtime", "predict"]
    done = subprocess.run([*command, "\t".join(pair)], cwd=made.bundle, capture_output=True, text=True, check=True)
    assert done.stdout.split("\t")[0] == ("contradiction", "entailment", "neutral")[int(expected.argmax())]
    done = subprocess.run([*command, "one text"], cwd=made.bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "write a tab" in done.stderr


def test_a_decoder_becomes_a_bundle_that_chats(tiny_writer: Path, talks: Path, asked: Callable[..., Request]) -> None:
    request = asked(data=str(talks), task="conversation")
    made = pipeline.export(request, str(tiny_writer), context=124)
    assert made.kind == "decoder"
    assert made.metric == "token accuracy"
    assert made.judged_on == "the answers of 10 rows"
    assert made.candidates[-1].passed
    assert all(not one.passed for one in made.candidates[:-1])
    assert "keys and values of 124 tokens" in made.fit.parts
    written = list(Chat(made.bundle).stream([{"role": "user", "content": "turn on the light"}], max_tokens=8))
    assert written
    command = [sys.executable, "-m", "runtime", "chat", "turn on the light", "--max-tokens", "8"]
    done = subprocess.run(command, cwd=made.bundle, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip("\n") == "".join(written).rstrip("\n")
    done = subprocess.run(
        [sys.executable, "-m", "runtime", "predict", "x"], cwd=made.bundle, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "use chat" in done.stderr
    told = json.loads((made.bundle / "manifest.json").read_text())
    assert asking.writes(told)
    assert asking.workload_of(told) == "conversation"
    assert asking.read(told, str(talks)).texts
    questions = made.bundle.parent / "questions.json"
    questions.write_text(json.dumps(["turn on the light", [{"role": "user", "content": "which song"}]]))
    command = ["-m", "runtime", "measure", "--what", "writing", "--texts", str(questions)]
    done = subprocess.run([sys.executable, *command], cwd=made.bundle, capture_output=True, text=True, check=True)
    (found,) = json.loads(done.stdout)["prompts"]
    assert len(found["first_token_ms"]) == 2


def test_a_decoder_becomes_a_bundle_for_onnxruntime_genai_that_streams(
    tmp_path: Path, talks: Path, asked: Callable[..., Request]
) -> None:
    folder, tokenizer = tmp_path / "writer", chat_tokenizer()
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "max_position_embeddings": 200}
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    decoder("SmolLM2-135M-Instruct", vocab_size=len(tokenizer), eos_token_id=end, **sizes).save_pretrained(folder)
    request = asked(data=str(talks), task="conversation")
    chosen = request.export.model_copy(update={"recipe": "genai-int4-mixed"})
    made = pipeline.export(request.model_copy(update={"export": chosen}), str(folder), context=150)
    assert made.candidates[0].recipe == "genai-int4-mixed"
    assert made.candidates[-1].passed
    assert made.parity["same_pieces"] == 1
    assert made.fit.measured is not None
    assert "keys and values of 150 tokens" in made.fit.parts
    said = manifest.verify(made.bundle).manifest
    assert (said["engine"]["name"], said["model"]["file"]) == ("onnxruntime-genai", "model")
    required = (made.bundle / "requirements.txt").read_text()
    assert f"onnxruntime-genai=={said['engine']['version']}\n" in required
    assert "onnxruntime==" in required
    pieces = list(GenaiChat(made.bundle).stream([{"role": "user", "content": "turn on the light"}], max_tokens=8))
    assert len(pieces) > 1
    command = [sys.executable, "-m", "runtime", "chat", "turn on the light", "--max-tokens", "8"]
    done = subprocess.run(command, cwd=made.bundle, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip("\n") == "".join(pieces).rstrip("\n")


@pytest.mark.parametrize("template", ["a system's turn is refused", "none", "a first piece of its own"])
def test_a_decoder_is_judged_on_what_its_bundle_reads(
    template: str, tmp_path: Path, talks: Path, asked: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tokenizer = tmp_path / "writer", chat_tokenizer(GEMMA if "system" in template else CHATML)
    if template == "none":
        tokenizer.chat_template = None
    elif "first" in template:  # that no template writes
        start = ("<bos>", tokenizer.convert_tokens_to_ids("<bos>"))
        tokenizer.bos_token = "<bos>"
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[start]
        )
    tokenizer.save_pretrained(folder)
    model = decoder(
        "SmolLM2-135M-Instruct",
        vocab_size=len(tokenizer),
        max_position_embeddings=200,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )
    model.save_pretrained(folder)
    judged: list[Any] = []
    real = ladder.reference
    monkeypatch.setattr(ladder, "reference", lambda *given, **more: judged.append(real(*given, **more)) or judged[0])
    made = pipeline.export(asked(data=str(talks), task="conversation"), str(folder))
    turns = json.loads((talks / "validation.jsonl").read_text().splitlines()[0])["messages"][:-1]
    system = tasks.find("conversation").messages({"messages": [*turns, {"role": "assistant", "content": "x"}]}, PLAIN)
    assert tuple(Chat(made.bundle).prompt(list(system))) in judged[0].ids


def test_a_row_that_is_longer_than_the_context_is_left_out(
    tiny_writer: Path, tmp_path: Path, asked: Callable[..., Request]
) -> None:
    def row(words: int) -> dict[str, Any]:
        question = "turn on the light " * words
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "song"}]}

    splits = {
        "train": [row(words) for words in range(13, 40)],
        "validation": [row(60), row(1), row(2)],
        "test": [row(words) for words in range(3, 13)],
    }
    rows = write_rows(tmp_path / "rows", splits)
    made = pipeline.export(asked(data=str(rows), task="conversation"), str(tiny_writer))
    assert made.judged_on == "the answers of 2 rows"
    with pytest.raises(InputError, match="none of 3 rows can be asked"):
        pipeline.export(asked(data=str(rows), task="conversation"), str(tiny_writer), context=64)


def test_two_labels_without_names_have_their_usual_ones(
    sorter: Path, tmp_path: Path, asked: Callable[..., Request]
) -> None:
    folder = tmp_path / "two"
    model = BertForSequenceClassification.from_pretrained(sorter, num_labels=2, ignore_mismatched_sizes=True)
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    local.save(model, folder)
    shutil.copyfile(sorter / "tokenizer.json", folder / "tokenizer.json")
    assert "id2label" not in json.loads((folder / "config.json").read_text())
    made = pipeline.export(asked(), str(folder))
    assert Classifier(made.bundle).labels == ["LABEL_0", "LABEL_1"]


def test_pairs_need_rows_of_pairs_and_a_classifier_its_own_task(sorter: Path, asked: Callable[..., Request]) -> None:
    with pytest.raises(InputError, match="is a classifier, and the task is qa"):
        pipeline.export(asked(task="qa"), str(sorter))
    with pytest.raises(InputError, match="are no pairs"):
        pipeline.export(asked(task="nli"), str(sorter))


def test_a_name_on_the_hub_is_the_name_of_the_bundle(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    assert named("someone/tiny-bert", snapshot) == "tiny-bert"
    assert named(str(snapshot), snapshot) == "0" * 40


def test_a_decoder_without_rows_follows_its_own_answers(tiny_writer: Path, asked: Callable[..., Request]) -> None:
    made = pipeline.export(asked(), str(tiny_writer))
    assert made.reference == 1
    assert made.metric == "likelihood kept"
    assert made.judged_on == "its own greedy answers to 50 questions"


@pytest.mark.parametrize("kind", ["t5-gated", "bart"])
def test_a_text_to_text_model_becomes_a_bundle_that_writes(
    kind: str, tmp_path: Path, asked: Callable[..., Request]
) -> None:
    save(tmp_path / kind, kind)
    made = pipeline.export(asked(), str(tmp_path / kind))
    assert (made.kind, made.metric, made.reference) == ("text-to-text", "likelihood kept", 1)
    assert made.candidates[-1].passed
    assert made.fit.measured is not None
    text = "turn the light on"
    written = "".join(TextToText(made.bundle).stream(text))
    assert written
    command = [sys.executable, "-m", "runtime", "predict", text]
    done = subprocess.run(command, cwd=made.bundle, capture_output=True, text=True, check=True)
    assert done.stdout == written + "\n"
    assert manifest.verify(made.bundle).manifest["model"]["parameters"] > 10_000


def test_a_recipe_that_is_asked_for_comes_first_and_only_safer_ones_follow(asked: Callable[..., Request]) -> None:
    board = catalog.device("raspberrypi5")
    assert next(one.name for one in recipes_for("decoder", board, None)) == "gguf-q4_0"
    assert [one.name for one in recipes_for("decoder", board, "gguf-q8_0")] == ["gguf-q8_0", "gguf-f16"]
    assert [one.name for one in recipes_for("decoder", board, "genai-int4")] == [
        "genai-int4",
        "genai-int4-mixed",
        "genai-fp32",
    ]
    assert recipes_for("decoder", board, "genai-int4-nearest")[0].name == "genai-int4-nearest"
    assert {one.engine for one in others_for("decoder", board, "llama.cpp")} == {"onnxruntime-genai"}
    assert {one.engine for one in others_for("decoder", board, "onnxruntime-genai")} == {"llama.cpp"}
    assert others_for("classifier", board, "onnxruntime") == ()
    assert "onnx-int4" not in [one.name for one in recipes_for("classifier", board, None)]
    assert recipes_for("classifier", board, "onnx-int4")[0].name == "onnx-int4"
    with pytest.raises(PlanRefused, match="not one for a decoder on"):
        recipes_for("decoder", board, "onnx-fp32")
    assert all(one.scheme != "static" for one in recipes_for("text-to-text", board, None))
    with pytest.raises(PlanRefused, match="not one for a text-to-text on"):
        recipes_for("text-to-text", board, "onnx-int8-static")


@pytest.mark.parametrize("board", ["browser", "iphone", "android-low", "iot-armv7"])
@pytest.mark.parametrize("kind", ["classifier", "reader", "decoder", "text-to-text"])
def test_boards_without_python_get_no_bundle_that_needs_it(kind: Kind, board: str) -> None:
    with pytest.raises(PlanRefused, match="is exported for"):
        recipes_for(kind, catalog.device(board), None)


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        ("labels", InputError, "does not know the label 'door'"),
        ("nan", IntegrityError, "not finite"),
        ("architecture", InputError, "BertModel; what is exported"),
        ("config", InputError, "no readable config.json"),
        ("family", InputError, "family 'roberta'"),
        ("pickled", InputError, "pickled weights are never loaded"),
        ("several labels", InputError, "multi_label_classification; one label of several"),
        ("no list", InputError, "no list of labels by number"),
        ("one label", InputError, "a head of 1 label"),
    ],
)
def test_what_cannot_be_exported_is_one_clear_error(
    spoil: str,
    error: type[Exception],
    said: str,
    sorter: Path,
    tiny_rows: Path,
    tmp_path: Path,
    asked: Callable[..., Request],
) -> None:
    folder = tmp_path / "spoiled"
    shutil.copytree(sorter, folder)
    config = json.loads((folder / "config.json").read_text())
    if spoil == "labels":
        config["id2label"] = {0: "a", 1: "b", 2: "c"}
    elif spoil == "architecture":
        config["architectures"] = ["BertModel"]
    elif spoil == "several labels":
        config["problem_type"] = "multi_label_classification"
    elif spoil == "no list":
        config["id2label"] = ["door", "light", "music"]
    elif spoil == "one label":
        config["id2label"] = {"0": "door"}
    elif spoil == "family":
        config["model_type"] = "roberta"
    elif spoil == "nan":
        weights = load_file(folder / "model.safetensors")
        weights["bert.encoder.layer.1.output.dense.weight"][0, 0] = float("nan")
        save_file(weights, folder / "model.safetensors")
    elif spoil == "pickled":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "config.json").write_text("{" if spoil == "config" else json.dumps(config))
    with pytest.raises(error, match=said):
        pipeline.export(asked(data=str(tiny_rows)), str(folder))
    assert not (tmp_path / "dist").exists()


def test_a_recipe_that_loses_everything_ends_with_the_reason(
    sorter: Path, tiny_rows: Path, asked: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edgedistill.toml").write_text("[export]\ntolerance = 0.0\n")
    request = asked(config=tmp_path / "edgedistill.toml", data=str(tiny_rows))
    made = pipeline.export(request, str(sorter))
    assert made.candidates[-1].passed  # float32 loses nothing
    monkeypatch.setattr("edgedistill.export.ladder._accuracy", lambda *_: next(falling))
    falling = iter([1.0, *[0.0] * 100])
    with pytest.raises(StageError, match="may be lost"):
        pipeline.export(asked(data=str(tiny_rows), seed=1), str(sorter))


def test_a_file_that_does_not_fit_is_refused_with_the_arithmetic(
    sorter: Path, tiny_rows: Path, asked: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = (Path(pipeline.__file__).parents[2] / "devices" / "raspberrypi3.toml").read_text()
    (tmp_path / "devices").mkdir()
    small = board.replace("ram_usable_bytes = 550_000_000", "ram_usable_bytes = 50_000_000")
    assert small != board
    (tmp_path / "devices" / "tight.toml").write_text(small.replace('aliases = ["rpi3", "pi3"]', "aliases = []"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanRefused, match=r"takes \d+ MB, and 50 MB are free"):
        pipeline.export(asked(target="tight", data=str(tiny_rows)), str(sorter))


def test_a_recipe_whose_engine_is_not_installed_says_how_to_install_it(tmp_path: Path) -> None:
    def write(*_: Any) -> Any:
        raise MissingExtra("onnxruntime-genai", extra="genai")

    def unused(*_: Any) -> Any:
        pytest.fail("there is no file")

    source = Source(
        kind="decoder",
        name="x",
        recipes=(),
        others=(catalog.recipe("genai-int4"),),
        metric="token accuracy",
        judged_on="",
        texts=(),
        command="",
        threads=1,
        **dict.fromkeys(("tokenizer", "model", "size_up", "check"), unused),
        write=write,
    )
    (row,) = every(source, "cpu", tmp_path, seed=0, progress=silent)
    assert (row.passed, row.size_bytes) == (False, None)
    assert row.reason == 'onnxruntime-genai is not installed; pip install "edgedistill[genai]"'


def test_candidates_that_another_one_beats_are_not_best() -> None:
    def candidate(size: int, quality: float, speed: float, *, passed: bool = True) -> Candidate:
        return Candidate(
            recipe="r",
            size_bytes=size,
            quality=quality,
            speed=speed,
            speed_interval=(speed - 0.1, speed + 0.1),
            passed=passed,
            reason="",
        )

    some = [
        candidate(10, 0.9, 1.0),
        candidate(20, 0.9, 1.0),  # larger, and nothing for it
        candidate(20, 0.95, 2.0),
        candidate(5, 0.99, 0.5, passed=False),  # does not hold
        candidate(30, 0.95, 0.7),
        candidate(40, 0.95, 0.6),  # faster by no more than chance
    ]
    assert [one.best for one in marked(some, faster=-1)] == [True, False, True, False, True, False]
    assert [one.best for one in marked(some, faster=1)] == [True, False, True, False, False, False]
    untimed = [replace(one, speed=None, speed_interval=None) for one in some]
    assert [one.best for one in marked(untimed, faster=1)] == [True, False, True, False, False, False]


@pytest.mark.parametrize("board", ["raspberrypi4", "raspberrypi5"])
def test_a_plan_names_the_recipes_that_an_export_tries(
    board: str, tiny_rows: Path, tiny_teacher: Path, asked: Callable[..., Request]
) -> None:
    goals = Goals(size_ratio=1.0)
    request = asked(target=board, data=str(tiny_rows), teacher=str(tiny_teacher)).model_copy(update={"goals": goals})
    for recipe in (None, "onnx-int4", "onnx-int8-weights"):
        made = pipeline.plan(request.model_copy(update={"export": Export(recipe=recipe)}))
        assert isinstance(made, Plan)
        assert made.recipes == recipes_for("classifier", catalog.device(board), recipe)
