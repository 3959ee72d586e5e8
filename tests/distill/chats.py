"""A tokenizer of pieces of bytes with chat templates, and rows to write in it."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from edgedistill.types import Message

SPECIAL = ("<pad>", "<eos>", "<|im_start|>", "<|im_end|>", "<bos>")
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "<bos>{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = (
    "turn the light in the kitchen on please",
    "play a louder song in the hall",
    "the door is open, lock the door",
    "which song do you like? the light one, or jazz in the kitchen",
    "system user assistant\nBe kind.\nAnswer in one line.",
)


def chat_tokenizer(template: str | None = CHATML, *, pad: str = "<pad>", end: str = "<eos>", size: int = 340) -> Any:
    """Byte-level BPE learned from the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return wrapped(tokenizer, template, pad=pad, end=end)


def wrapped(tokenizer: Tokenizer, template: str | None = CHATML, *, pad: str = "<pad>", end: str = "<eos>") -> Any:
    """A tokenizer as transformers loads it."""
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, eos_token=end, chat_template=template)


def turns(*contents: str, system: str | None = None) -> list[Message]:
    """User and assistant in turn."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return first + [
        {"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(contents)
    ]
