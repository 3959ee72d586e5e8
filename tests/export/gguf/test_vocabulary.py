from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from edgedistill.distill.vocab import trim
from edgedistill.errors import StageError
from edgedistill.export.decoder.parity import reference
from edgedistill.export.gguf import byte_level, header, vocabulary
from edgedistill.export.gguf.parity import compare
from edgedistill.export.gguf.writer import to_gguf
from tests.export.gguf.checkpoints import (
    CORPUS,
    PROMPTS,
    SIZES,
    TEMPLATE,
    bytes_bpe,
    causal,
    pieces_bpe,
    spoken,
    unigram,
    wordpiece,
)


def written(tokenizer: Tokenizer, folder: Path, **changes: Any) -> Path:
    """A folder with a tokenizer only."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.to_str()) | changes))
    (folder / "tokenizer_config.json").write_text(json.dumps(spoken(tokenizer)))
    return folder


@pytest.mark.parametrize(
    ("make", "model", "pre"),
    [
        (lambda: bytes_bpe(byte_level.GPT2), "gpt2", "gpt-2"),
        (lambda: bytes_bpe(byte_level.DIGITS), "gpt2", "smollm"),
        (lambda: bytes_bpe(byte_level.QWEN2), "gpt2", "qwen2"),
        (lambda: bytes_bpe(byte_level.LLAMA3, ignore_merges=True), "gpt2", "llama-bpe"),
        (lambda: bytes_bpe(byte_level.LLAMA3), "gpt2", "dbrx"),
        (lambda: bytes_bpe(byte_level.GPT4O), "gpt2", "gpt-4o"),
        (lambda: pieces_bpe(prefix=True), "llama", "default"),
        (unigram, "t5", "default"),
        (wordpiece, "bert", "default"),
    ],
)
def test_each_kind_of_tokenizer_has_its_name(
    make: Callable[[], Tokenizer], model: str, pre: str, tmp_path: Path
) -> None:
    found = vocabulary.read(written(make(), tmp_path), 1000)
    assert (found.kind.model, found.kind.pre) == (model, pre)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer 'Whitespace'"),
        ({"pre_tokenizer": None}, "pre-tokenizer 'none'"),
        ({"normalizer": {"type": "Lowercase"}}, "the normalizer Lowercase"),
    ],
)
def test_a_splitting_rule_that_llama_cpp_does_not_have_is_refused(
    changes: dict[str, Any], what: str, tmp_path: Path
) -> None:
    folder = written(bytes_bpe(byte_level.GPT2), tmp_path, **changes)
    with pytest.raises(StageError, match=what) as caught:
        vocabulary.read(folder, 1000)
    assert "ONNX" in str(caught.value.hint)


def test_another_regular_expression_is_refused_and_named(tmp_path: Path) -> None:
    made = bytes_bpe(byte_level.QWEN2)
    spec = json.loads(made.to_str())["pre_tokenizer"]
    spec["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W+"
    with pytest.raises(StageError, match=r"w\+"):
        vocabulary.read(written(made, tmp_path, pre_tokenizer=spec), 1000)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"normalizer": None}, "a leading space"),
        ({"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}}, "several spaces in a row"),
        ({"normalizer": {"type": "NFKC"}}, "the normalizer NFKC"),
        ({"pre_tokenizer": {"type": "WhitespaceSplit"}}, "the pre-tokenizer WhitespaceSplit"),
    ],
)
def test_unigram_pieces_that_llama_cpp_finds_otherwise_are_refused(
    changes: dict[str, Any], what: str, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=what):
        vocabulary.read(written(unigram(), tmp_path, **changes), 1000)


def test_pieces_have_their_types(tmp_path: Path) -> None:
    made = pieces_bpe(prefix=True)
    made.add_tokens(["two words"])
    rows = made.get_vocab_size() + 3
    found = vocabulary.read(written(made, tmp_path), rows)
    ids = made.get_vocab()
    kinds = {token: TokenType(found.types[number]) for number, token in enumerate(found.tokens)}
    assert kinds["<unk>"] == TokenType.UNKNOWN
    assert kinds["</s>"] == TokenType.CONTROL
    assert kinds["<0x41>"] == TokenType.BYTE
    assert kinds["two words"] == TokenType.USER_DEFINED
    assert kinds["▁the"] == TokenType.NORMAL
    assert kinds[f"[PAD{rows - 1}]"] == TokenType.UNUSED
    assert found.special == {"bos": ids["<s>"], "eos": ids["</s>"], "unk": ids["<unk>"]}
    assert (found.add_bos, found.add_eos) == (True, False)


def test_wordpieces_mark_where_words_begin(tmp_path: Path) -> None:
    made = wordpiece()
    found = vocabulary.read(written(made, tmp_path), made.get_vocab_size())
    ids = made.get_vocab()
    assert found.tokens[ids["##e"]] == "e"
    assert found.tokens[ids["the"]] == "▁the"
    assert found.tokens[ids["[SEP]"]] == "[SEP]"
    assert found.special["bos"] == ids["[CLS]"]
    assert found.add_sep


def test_a_vocabulary_that_was_trimmed_without_its_model_is_refused(tmp_path: Path) -> None:
    made = bytes_bpe(byte_level.GPT2)
    with pytest.raises(StageError, match="but the embedding table has"):
        vocabulary.read(written(made, tmp_path), made.get_vocab_size() - 1)


def test_the_template_is_found_in_both_places(tmp_path: Path) -> None:
    made = bytes_bpe(byte_level.GPT2)
    folder = written(made, tmp_path)
    assert vocabulary.read(folder, 1000).chat_template is None
    named = {"chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": TEMPLATE}]}
    (folder / "tokenizer_config.json").write_text(json.dumps(spoken(made) | named))
    assert vocabulary.read(folder, 1000).chat_template == TEMPLATE
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert vocabulary.read(folder, 1000).chat_template == "{{ messages }}"


def phi3(**flags: bool) -> Tokenizer:
    """SentencePiece with Phi-3's tokens, all but three of them with the flags."""
    made = pieces_bpe(prefix=True)
    made.add_special_tokens(["<|endoftext|>", "<|user|>", "<|end|>"])
    spec = json.loads(made.to_str())
    for token in spec["added_tokens"]:
        token |= {} if token["content"] in vocabulary.KEEP_SPACES else flags
    return Tokenizer.from_str(json.dumps(spec))


def test_tokens_that_swallow_spaces_do_so_in_llama_cpp(tmp_path: Path) -> None:
    folder = causal("Phi3", SIZES, phi3(rstrip=True), tmp_path / "a Phi-3 student")
    to_gguf(folder, tmp_path / "model.gguf", precision="f32")
    assert header.read(tmp_path / "model.gguf").metadata["general.name"] == "Phi-3 a phi student"
    prompts = ["<|user|>\nTurn the lights on<|end|>\n<|user|> now"]
    assert compare(reference(folder, prompts, new_tokens=1), tmp_path / "model.gguf").same_pieces == 1


def test_a_model_is_not_named_phi_3_without_that(tmp_path: Path) -> None:
    found = vocabulary.read(written(bytes_bpe(byte_level.GPT2), tmp_path), 1000)
    assert found.model_name("my-phi3-Phi-3.5-student") == "my-phi-phi.5-student"


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"single_word": True}])
def test_tokens_that_look_before_them_are_refused(flags: dict[str, bool], tmp_path: Path) -> None:
    with pytest.raises(StageError, match="what stands before it"):
        vocabulary.read(written(phi3(**flags), tmp_path), 1000)


def test_a_cased_wordpiece_keeps_its_case_and_an_odd_one_is_refused(tmp_path: Path) -> None:
    made = wordpiece()
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    assert vocabulary.read(written(made, tmp_path), 1000).kind.model == "bert"
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(StageError, match="pre-tokenizer"):
        vocabulary.read(written(made, tmp_path), 1000)


@pytest.mark.parametrize(
    "make",
    [lambda: bytes_bpe(byte_level.QWEN2), lambda: pieces_bpe(prefix=True), unigram],
    ids=["byte-level", "sentencepiece", "unigram"],
)
def test_our_trimmed_vocabularies_cut_texts_in_llama_cpp_as_they_do_here(
    make: Callable[[], Tokenizer], tmp_path: Path
) -> None:
    trimmed = trim(make(), CORPUS[:2]).tokenizer
    folder = causal("Llama", SIZES, trimmed, tmp_path / "checkpoint")
    to_gguf(folder, tmp_path / "model.gguf", precision="f32")
    found = compare(reference(folder, PROMPTS, new_tokens=4), tmp_path / "model.gguf")
    assert found.same_pieces == 1
    assert found.kl < 1e-4


def test_parity_sees_a_vocabulary_that_was_trimmed_wrongly(tmp_path: Path) -> None:
    right = bytes_bpe(byte_level.QWEN2)
    folder = causal("Llama", SIZES, right, tmp_path / "checkpoint")
    spec = json.loads(right.to_str())
    ids = spec["model"]["vocab"]
    one, other = right.token_to_id("Ġthe"), right.token_to_id("Ġ")
    spec["model"]["vocab"] = ids | {"Ġthe": other, "Ġ": one}
    (tmp_path / "wrong").mkdir()
    for file in folder.iterdir():
        (tmp_path / "wrong" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "wrong" / "tokenizer.json").write_text(json.dumps(spec))
    to_gguf(tmp_path / "wrong", tmp_path / "model.gguf", precision="f32")
    found = compare(reference(folder, PROMPTS, new_tokens=4), tmp_path / "model.gguf")
    assert found.same_pieces < 1
