"""Pairs and heads for spans: the same answers as PyTorch, by the written graph and through the runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification

from edgedistill.distill.batches import collate
from edgedistill.export.onnx import to_onnx
from edgedistill.export.parity import answers, compare, feed
from edgedistill.runtime.engine_onnx import Classifier, Reader, logits, session
from edgedistill.runtime.spans import windows
from edgedistill.teachers import local

SEPARATOR = 3
WORDS = ("who", "lit", "lamp", "the", "nurse", "in", "hall", "at", "night")
LAYOUTS = [{}, {"packed": False}, {"embedding_bits": 8}]


def made(family: type, folder: Path) -> Path:
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=24,
        num_labels=2 if family is BertForQuestionAnswering else 3,
    )
    model = family(config).train(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.15)
    folder.mkdir()
    local.save(model, folder)
    return folder


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(BertForSequenceClassification, tmp_path_factory.mktemp("made") / "nli")


@pytest.fixture(scope="module")
def qa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(BertForQuestionAnswering, tmp_path_factory.mktemp("made") / "qa")


@pytest.fixture(scope="module")
def pairs() -> list[list[int]]:
    """Thirty pairs of different lengths; no other piece is the separator."""
    chance = torch.Generator().manual_seed(0)

    def part(length: int) -> list[int]:
        return torch.randint(5, 300, (length,), generator=chance).tolist()

    return [[2, *part(1 + n % 8), SEPARATOR, *part(1 + n % 11), SEPARATOR] for n in range(30)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_pairs_are_answered_like_the_student_with_the_second_text_known_as_such(
    nli: Path, pairs: list[list[int]], tmp_path: Path, layout: dict[str, bool | int]
) -> None:
    to_onnx(nli, tmp_path / "model.onnx", pairs=True, **layout)  # type: ignore[arg-type]
    engine = session(tmp_path / "model.onnx", 1)
    batch = collate(pairs, range(len(pairs)), 0, separator=SEPARATOR)
    batch.pop("rows")
    with torch.inference_mode():
        expected = BertForSequenceClassification.from_pretrained(nli).train(False)(**batch).logits.numpy()
    ids, mask, types = (batch[name].numpy() for name in ("input_ids", "attention_mask", "token_type_ids"))
    most = 0.05 if layout.get("embedding_bits") else 1e-5
    np.testing.assert_allclose(logits(engine, ids, mask, types), expected, atol=most)
    assert np.abs(logits(engine, ids, mask) - expected).max() > 0.1  # as one text, the answer is another
    found = answers(tmp_path / "model.onnx", pairs, separator=SEPARATOR)
    np.testing.assert_allclose(found, expected, atol=most)


def test_rows_of_pairs_have_the_types_that_training_gave_them(pairs: list[list[int]]) -> None:
    for row in pairs:
        expected = collate([row], [0], 0, separator=SEPARATOR)["token_type_ids"].numpy()
        np.testing.assert_array_equal(feed(row, separator=SEPARATOR)["token_type_ids"], expected)
    assert "token_type_ids" not in feed(pairs[0])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_spans_have_two_scores_a_piece_like_the_students(
    qa: Path, pairs: list[list[int]], tmp_path: Path, layout: dict[str, bool | int]
) -> None:
    to_onnx(qa, tmp_path / "model.onnx", pairs=True, **layout)  # type: ignore[arg-type]
    model = BertForQuestionAnswering.from_pretrained(qa).train(False)
    expected = []
    for row in pairs:
        batch = collate([row], [0], 0, separator=SEPARATOR)
        batch.pop("rows")
        with torch.inference_mode():
            said = model(**batch)
        expected.append(torch.stack((said.start_logits[0], said.end_logits[0]), dim=-1).numpy())
    found = answers(tmp_path / "model.onnx", pairs, separator=SEPARATOR)
    assert found.shape == (sum(map(len, pairs)), 2)
    np.testing.assert_allclose(found, np.concatenate(expected), atol=0.08 if layout.get("embedding_bits") else 1e-5)
    assert compare(found, np.concatenate(expected))["cosine"] > 0.99


@pytest.fixture
def tokenizer() -> Tokenizer:
    pieces = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    made = Tokenizer(models.WordLevel(pieces, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def bundle(folder: Path, student: Path, tokenizer: Tokenizer, labels: list[str]) -> Path:
    to_onnx(student, folder / "model.onnx", pairs=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    model = {"file": "model.onnx", "labels": labels, "max_tokens": 20, "pad_id": 0}
    (folder / "manifest.json").write_text(json.dumps({"engine": {"threads": 1}, "model": model}))
    return folder


def test_the_runtime_tells_the_texts_of_a_pair_apart(nli: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    classifier = Classifier(bundle(tmp_path, nli, tokenizer, ["yes", "no", "maybe"]))
    pair = ("who lit the lamp", "the nurse")
    encoding = tokenizer.encode(*pair)
    with torch.inference_mode():
        expected = BertForSequenceClassification.from_pretrained(nli).train(False)(
            input_ids=torch.tensor([encoding.ids]), token_type_ids=torch.tensor([encoding.type_ids])
        )
    padded = classifier([pair, ("who lit the lamp in the hall", "the nurse at night")])
    np.testing.assert_allclose(padded[0], expected.logits[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(classifier([pair]), padded[:1], atol=1e-5)


def test_the_reader_answers_in_the_contexts_own_words(qa: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    reader = Reader(bundle(tmp_path, qa, tokenizer, []))
    context = "the nurse lit the lamp, in the hall at night"
    said = reader("who lit the lamp", context)
    assert said.text
    assert said.text == context[said.start : said.end]
    assert 0 < said.score < 1


def test_the_reader_finds_the_span_that_pytorch_scores_best_over_all_windows(
    qa: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    reader = Reader(bundle(tmp_path, qa, tokenizer, []))
    question, words = "who lit the lamp", [*WORDS * 4, "nurse"]
    context = " ".join(words)
    found = reader(question, context)
    model = BertForQuestionAnswering.from_pretrained(qa).train(False)
    sums = {}
    for window in windows(tokenizer, question, context, 20):
        given = torch.tensor([window.ids]), torch.tensor([window.type_ids])
        with torch.inference_mode():
            said = model(input_ids=given[0], token_type_ids=given[1])
        places = [at for at, sequence in enumerate(window.sequence_ids) if sequence == 1]
        for first in places:
            for last in places[places.index(first) :]:
                place = (window.offsets[first][0], window.offsets[last][1])
                score = float(said.start_logits[0, first] + said.end_logits[0, last])
                sums[place] = max(score, sums.get(place, score))
    assert (found.start, found.end) == max(sums, key=lambda place: sums[place])
    with pytest.raises(ValueError, match="the question is empty"):
        reader(" ", context)
