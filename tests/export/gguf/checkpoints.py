"""Tiny random checkpoints of every family that is written as GGUF, with tokenizers trained on a few sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgedistill.export.gguf import byte_level

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and she said: it's 12345 degrees!",
    "Turn the kitchen lights on, please; I'd like them at 40 % until 22:30.",
    "Große Bäume stehen im Café neben 3 alten Häusern. Ça va? Наука и техника. 你好，世界",
    "def add(a, b):\n    return a + b  # two numbers\n\n\nprint(add(1, 2))",
    "We'll see what they've done; don't WORRY about it, he'll manage the lights in the kitchen.",
]
PROMPTS = [
    "The quick brown fox",
    "it's 2024, and we'll see  two   spaces\n\nand lines",
    "Turn the café lights on: 你好 Наука 🙂 at 22:30!",
    "def lights(kitchen):\n\treturn 12345 ",
    " She SAID don't",
]
TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def _longrope(pairs: int) -> dict[str, Any]:
    factors = {
        f"{length}_factor": [base + 0.1 * i for i in range(pairs)] for length, base in (("short", 1), ("long", 2))
    }
    return {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 512} | factors


def bytes_bpe(rule: str, *, ignore_merges: bool = False, bos: bool = False, nfc: bool = False) -> Tokenizer:
    """A byte-level BPE tokenizer with one of the splitting rules."""
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule in {byte_level.GPT2, byte_level.DIGITS})
    if rule == byte_level.GPT2:
        made.pre_tokenizer = last
    elif rule == byte_level.DIGITS:
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), last])
    elif rule == byte_level.GPT4O:
        split = pre_tokenizers.Split(Regex(rule), "removed", invert=True)
        made.pre_tokenizer = pre_tokenizers.Sequence([split, last])
    else:
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(rule), "isolated"), last])
    if nfc:
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>", "<|start|>"],
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<|start|> $A", special_tokens=[("<|start|>", 1)])
    return made


def pieces_bpe(*, prefix: bool) -> Tokenizer:
    """SentencePiece BPE with byte fallback as transformers converts it: every way to make a piece is a merge."""
    first = Tokenizer(models.BPE())
    first.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    first.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=160, show_progress=False))
    found = first.get_vocab()
    learned = sorted((piece for piece in found if len(piece) > 1), key=found.__getitem__)
    single = sorted(piece for piece in found if len(piece) == 1)
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned, *single]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [
        (piece[:at], piece[at:])
        for piece in learned
        for at in range(1, len(piece))
        if piece[:at] in vocabulary and piece[at:] in vocabulary
    ]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replaced = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced]) if prefix else replaced
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def unigram() -> Tokenizer:
    """SentencePiece Unigram without byte fallback."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def wordpiece() -> Tokenizer:
    """BERT's, in lower case."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def spoken(tokenizer: Tokenizer) -> dict[str, str]:
    """The names that tokenizer_config.json gives to special tokens."""
    if "[CLS]" in tokenizer.get_vocab():
        return {name: f"[{name[:-6].upper()}]" for name in ("cls_token", "sep_token", "unk_token", "pad_token")}
    if "<|start|>" in tokenizer.get_vocab():
        return {"bos_token": "<|start|>", "eos_token": "<|end|>"}
    names = {"eos_token": "</s>", "unk_token": "<unk>"}
    return names | ({"bos_token": "<s>"} if "<s>" in tokenizer.get_vocab() else {})


def _gemma(**more: Any) -> dict[str, Any]:
    return SIZES | {"head_dim": 32, "tie_word_embeddings": True} | more


GEMMA3 = _gemma(
    num_hidden_layers=6,
    query_pre_attn_scalar=32,
    sliding_window=8,
    layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
    rope_parameters={
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
    },
)
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
FAMILIES: dict[str, tuple[str, dict[str, Any], Callable[[], Tokenizer]]] = {
    "llama 3": (
        "Llama",
        SIZES | {"rope_parameters": LLAMA3_ROPE, "attention_bias": True, "head_dim": 32},
        lambda: bytes_bpe(byte_level.LLAMA3, ignore_merges=True, bos=True),
    ),
    "llama 2": (
        "Llama",
        SIZES | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
        lambda: pieces_bpe(prefix=True),
    ),
    "smollm2": (
        "Llama",
        SIZES | {"num_attention_heads": 8, "tie_word_embeddings": True},
        lambda: bytes_bpe(byte_level.DIGITS),
    ),
    "llama with unigram": ("Llama", SIZES, unigram),
    "qwen2": ("Qwen2", SIZES | {"rope_parameters": YARN}, lambda: bytes_bpe(byte_level.QWEN2, nfc=True)),
    "qwen3": (
        "Qwen3",
        SIZES | {"head_dim": 32, "tie_word_embeddings": True},
        lambda: bytes_bpe(byte_level.QWEN2, nfc=True),
    ),
    "phi3": ("Phi3", SIZES, lambda: pieces_bpe(prefix=True)),
    "phi3.5": (
        "Phi3",
        SIZES
        | {"max_position_embeddings": 2048, "original_max_position_embeddings": 512}
        | {"rope_parameters": _longrope(8)},
        lambda: pieces_bpe(prefix=True),
    ),
    "phi4-mini": (
        "Phi3",
        SIZES
        | {"max_position_embeddings": 2048, "original_max_position_embeddings": 512, "tie_word_embeddings": True}
        | {"rope_parameters": _longrope(6) | {"partial_rotary_factor": 0.75}},
        lambda: bytes_bpe(byte_level.GPT4O),
    ),
    "gemma": ("Gemma", _gemma(), lambda: pieces_bpe(prefix=False)),
    "gemma2": (
        "Gemma2",
        _gemma(num_hidden_layers=4, query_pre_attn_scalar=32, sliding_window=8),
        lambda: pieces_bpe(prefix=False),
    ),
    "gemma3": ("Gemma3", GEMMA3, lambda: pieces_bpe(prefix=False)),
}


def random_weights(model: Any) -> None:
    """No two weights alike: new biases are all 0 and new norms all 1, which would hide that one is left out."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)


def save(model: Any, tokenizer: Tokenizer, folder: Path) -> Path:
    """A checkpoint folder as transformers writes it."""
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(spoken(tokenizer)))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def causal(kind: str, sizes: dict[str, Any], tokenizer: Tokenizer, folder: Path) -> Path:
    """A random decoder."""
    name = "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config"
    eos = tokenizer.token_to_id(spoken(tokenizer)["eos_token"])
    ends = {"eos_token_id": eos, "bos_token_id": None, "pad_token_id": None}
    config = getattr(transformers, name)(vocab_size=tokenizer.get_vocab_size(), **ends, **sizes)
    torch.manual_seed(1)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).train(False)
    random_weights(model)
    return save(model, tokenizer, folder)
