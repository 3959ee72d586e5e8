"""Tiny random encoder–decoders of the T5 and BART families, with tokenizers of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

CONTEXT = 90
LETTERS = "abcdefghijklmnopqrstuvwxyz ,.?é水"
TEXTS = (
    "",  # the end of the text alone
    "a",
    "turn the light on, please",
    "which song do you like? the light one, or jazz in the kitchen",
    "lock the door, 水 é, and then play a louder song in the hall, please, turn it on.",
)
KINDS = ("t5", "t5-gated", "mt5", "bart", "bart-scaled")


def t5_tokenizer() -> Any:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *sorted(set(LETTERS) - {" "}), "▁the", "ight", "▁so", "ng", "on", "▁p"]
    return T5Tokenizer(vocab=[(piece, -float(number)) for number, piece in enumerate(pieces)], extra_ids=3)


def bart_tokenizer() -> Any:
    """Pieces of bytes, between a start and an end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def save(folder: Path, kind: str, **changes: Any) -> None:
    """A random checkpoint on disk with no two weights alike; a new one's biases are all 0 and its norms all 1."""
    torch.manual_seed(3)
    if kind.startswith("bart"):
        tokenizer = bart_tokenizer()
        settings = {
            "vocab_size": len(tokenizer),
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": CONTEXT,
            "scale_embedding": kind == "bart-scaled",
            "activation_function": "relu" if kind == "bart-scaled" else "gelu",
        }
        model: Any = BartForConditionalGeneration(BartConfig(**{**settings, **changes}))
        model.final_logits_bias.normal_(std=0.1)
        model.generation_config.forced_bos_token_id = 0
    else:
        tokenizer = t5_tokenizer()
        settings = {
            "vocab_size": len(tokenizer) + 5,  # filled up, as T5's is
            "d_model": 32,
            "d_kv": 12,  # four heads of which are wider than the model
            "d_ff": 48,
            "num_layers": 2,
            "num_decoder_layers": 3,
            "num_heads": 4,
            "relative_attention_num_buckets": 12,
            "relative_attention_max_distance": 20,
            "feed_forward_proj": "relu" if kind == "t5" else "gated-gelu",
            "decoder_start_token_id": 0,
            "n_positions": CONTEXT,
            "tie_word_embeddings": kind == "t5",
        }
        config, of = (
            (MT5Config, MT5ForConditionalGeneration) if kind == "mt5" else (T5Config, T5ForConditionalGeneration)
        )
        model = of(config(**{**settings, **changes}))
        if kind != "t5":
            model.lm_head.weight = torch.nn.Parameter(model.shared.weight.detach().clone())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.3 if kind.startswith("bart") else 0.1)
        # A word weighs less than what layers make of it: otherwise the answer is one word again and again.
        model.get_input_embeddings().weight.mul_(0.3)
    model.train(False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
