"""What each family of models is in GGUF: its metadata, and what happens to its weights on the way.

Names of keys and tensors come from the `gguf` package; which of them a family needs, and what llama.cpp's own graph of
a family assumes, was read in llama.cpp (conversion/*.py and src/models/*.cpp). What a checkpoint asks for and the graph
does not compute is refused here, because the file would load and answer differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gguf
from gguf import MODEL_ARCH, GGUFWriter
from torch import Tensor

from edgedistill.errors import StageError
from edgedistill.export.checkpoint import classifies
from edgedistill.export.gguf import rope

Config = Mapping[str, Any]
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family.

    Attributes:
        check: refuses what the family's graph in llama.cpp does not compute.
        describe: writes the family's metadata.
        name: from a checkpoint's tensor name to the one that the name map of `gguf` knows; None drops the tensor.
        change: what happens to a tensor of that name; None leaves it as it is.
        only_configured: tensors that a checkpoint has in its configuration only.
    """

    arch: MODEL_ARCH
    check: Callable[[Config], None]
    describe: Callable[[GGUFWriter, Config], None]
    name: Callable[[str, Config], str | None]
    change: Callable[[str, Config], Change | None] = lambda _name, _config: None
    only_configured: Callable[[Config], Mapping[str, Tensor]] = lambda _: {}


def family(config: Config) -> Family:
    """The family of a checkpoint by its configuration.

    Raises:
        StageError: of another family, or with something that llama.cpp does not compute.
    """
    kind = config.get("model_type", "")
    if kind not in FAMILIES:
        raise StageError(
            f"{kind or 'a model without model_type'} cannot be written as GGUF",
            hint=f"these can: {', '.join(FAMILIES)}",
        )
    found = FAMILIES[kind]
    architecture = next(iter(config.get("architectures") or ()), "")
    if not architecture.endswith(_HEADS[found.arch == MODEL_ARCH.BERT]):
        raise _not_computed(f"the head of {architecture or 'no architecture'}")
    found.check(config)
    return found


_HEADS = {False: ("ForCausalLM",), True: ("BertModel", "ForSequenceClassification", "ForMaskedLM")}


def _not_computed(what: str) -> StageError:
    return StageError(f"llama.cpp does not compute {what}", hint="export this student to ONNX")


def _activation(config: Config, key: str, *computed: str) -> None:
    if config.get(key) not in computed:
        raise _not_computed(f"{key} {config.get(key)!r} in {config['model_type']}")


def head_size(config: Config) -> int:
    """The width of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _sizes(writer: GGUFWriter, config: Config) -> None:
    """What every family has."""
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])


def _decoder(writer: GGUFWriter, config: Config) -> None:
    _sizes(writer, config)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    rope.describe(writer, config, head_size(config))


def _decoder_name(name: str, _: Config) -> str | None:
    return None if name.endswith("rotary_emb.inv_freq") else name


def _check_llama(config: Config) -> None:
    _activation(config, "hidden_act", "silu")
    rope.check(config, "default", "linear", "yarn", "llama3")


def _permute(heads: int) -> Change:
    """Rotary pairs (i, i + half) become neighbours (2i, 2i + 1), which is how llama.cpp rotates this family."""

    def change(weight: Tensor) -> Tensor:
        halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        return halves.transpose(1, 2).reshape(weight.shape)

    return change


def _change_llama(name: str, config: Config) -> Change | None:
    if ".q_proj." in name:
        return _permute(config["num_attention_heads"])
    if ".k_proj." in name:
        return _permute(config["num_key_value_heads"])
    return None


def _check_qwen(config: Config) -> None:
    _activation(config, "hidden_act", "silu")
    rope.check(config, "default", "linear", "yarn")
    if config.get("use_sliding_window") and (config.get("sliding_window") or 0) < config["max_position_embeddings"]:
        raise _not_computed(f"a sliding window in {config['model_type']}")


def _check_phi3(config: Config) -> None:
    _activation(config, "hidden_act", "silu")
    rope.check(config, "default", "longrope")


def _describe_phi3(writer: GGUFWriter, config: Config) -> None:
    _decoder(writer, config)
    # 0 tells Phi-4-mini from the others. llama.cpp does not slide the window; the linter says from where this matters.
    writer.add_sliding_window(config.get("sliding_window") or 0)


def _check_gemma(config: Config) -> None:
    # "gelu" is what the first checkpoints of Gemma 1 say; the model computes the tanh form all the same.
    key = "hidden_activation" if config.get("hidden_activation") else "hidden_act"
    _activation(config, key, "gelu_pytorch_tanh", *(("gelu",) if key == "hidden_act" else ()))
    if config.get("attention_bias"):
        raise _not_computed("biases of the attention in " + str(config["model_type"]))
    if config["model_type"] == "gemma":
        rope.check(config, "default")
        return
    rope.check(config, "default", "linear")
    # llama.cpp scales by the width of a head, save for the two models of 27B, which it knows by their layers.
    big = {"gemma2": 46, "gemma3_text": 62}[config["model_type"]] == config["num_hidden_layers"]
    scale = config["hidden_size"] // config["num_attention_heads"] if big else head_size(config)
    if config["query_pre_attn_scalar"] != scale:
        raise _not_computed(f"query_pre_attn_scalar {config['query_pre_attn_scalar']}, only {scale}")
    if config["model_type"] == "gemma3_text" and config.get("attn_logit_softcapping"):
        raise _not_computed("attn_logit_softcapping in Gemma 3")
    if config["model_type"] == "gemma2" and not (
        config.get("attn_logit_softcapping") and config.get("final_logit_softcapping")
    ):
        raise _not_computed("Gemma 2 without softcapping")
    if config["model_type"] == "gemma3_text" and config.get("use_bidirectional_attention"):
        raise _not_computed("Gemma 3 attending to both sides")
    window_period(config)


def window_period(config: Config) -> int:
    """How many layers there are from one that sees everything to the next; 0 when each layer's window slides.

    Raises:
        StageError: the layers do not repeat as llama.cpp expects: sliding ones first, then one that is not.
    """
    full = [kind == "full_attention" for kind in config["layer_types"]]
    period = full.index(True) + 1 if True in full else 0
    if full != [period > 0 and layer % period == period - 1 for layer in range(len(full))]:
        raise _not_computed(f"windows that slide in the layers {[i for i, one in enumerate(full) if not one]} only")
    return period


def _describe_gemma(writer: GGUFWriter, config: Config) -> None:
    _decoder(writer, config)
    if config["model_type"] == "gemma":
        return
    writer.add_sliding_window(config["sliding_window"])
    writer.add_sliding_window_pattern(window_period(config))
    if config.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def _name_gemma(name: str, config: Config) -> str | None:
    return None if name == "lm_head.weight" else _decoder_name(name, config)  # always the embedding table again


def _change_gemma(name: str, _: Config) -> Change | None:
    # The model multiplies by 1 + weight.
    return (lambda weight: weight + 1) if name.endswith("norm.weight") else None


def _check_bert(config: Config) -> None:
    _activation(config, "hidden_act", "gelu", "gelu_new", "gelu_pytorch_tanh")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise _not_computed(f"position_embedding_type {config['position_embedding_type']!r}")


def _describe_bert(writer: GGUFWriter, config: Config) -> None:
    _sizes(writer, config)
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_token_type_count(config["type_vocab_size"])
    if classifies(config):
        writer.add_pooling_type(gguf.PoolingType.RANK)
        labels = {int(number): label for number, label in config["id2label"].items()}
        writer.add_classifier_output_labels([labels[number] for number in sorted(labels)])


def _name_bert(name: str, config: Config) -> str | None:
    name = name.removeprefix("bert.")
    if name.startswith("cls.") or name.endswith("position_ids"):
        return None
    if name.startswith("pooler.") and not classifies(config):
        return None
    # llama.cpp's classification head is dense, tanh, dense on the first position: BERT's pooler and classifier.
    return name.replace("classifier.", "classifier.out_proj.").replace("pooler.dense.", "classifier.dense.")


_LLAMA = Family(
    arch=MODEL_ARCH.LLAMA,
    check=_check_llama,
    describe=_decoder,
    name=_decoder_name,
    change=_change_llama,
    only_configured=rope.llama3_factors,
)
_GEMMA = Family(
    arch=MODEL_ARCH.GEMMA, check=_check_gemma, describe=_describe_gemma, name=_name_gemma, change=_change_gemma
)
FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "qwen2": Family(arch=MODEL_ARCH.QWEN2, check=_check_qwen, describe=_decoder, name=_decoder_name),
    "qwen3": Family(arch=MODEL_ARCH.QWEN3, check=_check_qwen, describe=_decoder, name=_decoder_name),
    "phi3": Family(
        arch=MODEL_ARCH.PHI3,
        check=_check_phi3,
        describe=_describe_phi3,
        name=_decoder_name,
        only_configured=rope.longrope_factors,
    ),
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, arch=MODEL_ARCH.GEMMA2),
    "gemma3_text": replace(_GEMMA, arch=MODEL_ARCH.GEMMA3),
    "bert": Family(arch=MODEL_ARCH.BERT, check=_check_bert, describe=_describe_bert, name=_name_bert),
}


def tied(config: Config) -> bool:
    """Whether the head is the embedding table, so that the file holds it once."""
    return bool(config.get("tie_word_embeddings", True)) or str(config["model_type"]).startswith("gemma")
