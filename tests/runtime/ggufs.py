"""A tiny random decoder in a GGUF file, with a byte-level tokenizer and its chat template, and the same checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import PreTrainedModel

from tests.distill.chats import CHATML, SPECIAL, chat_tokenizer
from tests.distill.decoders import decoder

CONTEXT = 256
END = "<|im_end|>"


def tiny(tokenizer: Any) -> PreTrainedModel:
    """A Llama whose vocabulary is the tokenizer's; it may write for long, so that there is something to compare."""
    return decoder(
        "SmolLM2-135M-Instruct",
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,  # tied, random models say the same word for ever
        # llama.cpp knows <eos> by its name as one that ends an answer, whatever the file says
        eos_token_id=tokenizer.convert_tokens_to_ids([END, "<eos>"]),
    )


def write_gguf(
    model: PreTrainedModel, tokenizer: Any, path: Path, template: str | None = CHATML, *, end: int | None = None
) -> None:
    """Writes a Llama in float32, with the names and the order of rows that llama.cpp reads; `end` ends an answer."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    told = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_token_list(pieces)
    writer.add_token_types([gguf.TokenType.CONTROL if p in SPECIAL else gguf.TokenType.NORMAL for p in pieces])
    writer.add_token_merges([" ".join(pair) for pair in told["merges"]])
    writer.add_eos_token_id(tokenizer.convert_tokens_to_ids(END) if end is None else end)
    writer.add_bos_token_id(tokenizer.convert_tokens_to_ids("<bos>"))
    if template is not None:
        writer.add_chat_template(template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        values = weight.numpy()
        if count := heads.get(name.split(".")[-2]):  # llama.cpp turns neighbours, transformers the two halves
            halves = values.reshape(count, 2, -1, values.shape[1])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def bundle(folder: Path, *, template: str | None = CHATML) -> tuple[PreTrainedModel, Any]:
    """A folder that the engine opens, and what it was made of."""
    tokenizer = chat_tokenizer(template)
    model = tiny(tokenizer)
    (folder / "model").mkdir(parents=True)
    write_gguf(model, tokenizer, folder / "model" / "model.gguf", template)
    manifest = {
        "engine": {"name": "llama-cpp-python", "threads": 1},
        "model": {"file": "model/model.gguf", "context": CONTEXT},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return model, tokenizer
