"""What is wrong with a GGUF file, or throws size and speed away, found without running it.

Each finding names the tensor or the key and says what it costs. Files from elsewhere are safe to look at: the header is
read with every size checked, weights are mapped and never copied whole, and a chat template runs in a limited child.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType, TokenType
from numpy.typing import NDArray

from edgedistill.errors import EngineCrashed
from edgedistill.export.gguf import engine, header
from edgedistill.export.gguf.header import Header, TensorInfo
from edgedistill.export.gguf.quantize import FALLBACK, FLOATS, quantizable

Type = GGMLQuantizationType
HEADS = {"token_embd.weight", "output.weight"}
ENCODERS = {"bert", "modern-bert", "nomic-bert", "jina-bert-v2", "neo-bert"}
# tokenizer.ggml.pre as llama.cpp's src/llama-vocab.cpp knows it; any other name stops the loading.
_PRE_TOKENIZERS = (
    "default minicpm5 llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano deepseek-llm "
    "deepseek-coder deepseek-v3 youtu falcon mpt starcoder gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es "
    "jina-v2-de a.x-4.0 mellum modern-bert jais-2 gemma4 jina-v1-en jina-v2-code roberta-bpe whitespace refact "
    "command-r qwen2 deepseek-r1-qwen kormo f2llmv2 qwen35 stablelm2 olmo dbrx smaug-bpe poro-chat glm4 "
    "chatglm-bpe viking jais tekken smollm codeshell bloom gpt3-finnish exaone exaone4 exaone-moe chameleon "
    "minerva-7b megrez gpt-4o llama4 kanana2 superbpe trillion granite-docling bailingmoe bailingmoe2 llada-moe "
    "seed-coder hunyuan hunyuan-dense joyai-llm kimi-k2 grok-2 afmoe minimax-m2 solar-open sarvam-moe tiny_aya "
    "mellum2 "
)
PRE_TOKENIZERS = frozenset(_PRE_TOKENIZERS.split())
# Where the 16-bit scales stand in a block: offset and count (ggml/src/ggml-common.h).
SCALES = {
    Type.Q4_0: (0, 1),
    Type.Q4_1: (0, 2),
    Type.Q5_0: (0, 1),
    Type.Q5_1: (0, 2),
    Type.Q8_0: (0, 1),
    Type.Q2_K: (80, 2),
    Type.Q3_K: (108, 1),
    Type.Q4_K: (0, 2),
    Type.Q5_K: (0, 2),
    Type.Q6_K: (208, 1),
}
BLOCKS_OF_256 = {Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K}
CHUNK_BYTES = 64 << 20
RENDER_CPU_S = 3
RENDER_BYTES = 2 << 30
QUESTION = "What does edgedistill ask?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: "error": the file does not load or answers wrongly; "cost": it is larger or slower than it need be.
        where: the tensor or the key.
    """

    severity: Literal["error", "cost"]
    where: str
    what: str
    cost: str


def lint(path: Path, *, weights: bool = True) -> tuple[Finding, ...]:
    """Looks a GGUF file over.

    Args:
        weights: whether to look for numbers that are not finite, which reads the whole file.

    Raises:
        IntegrityError: not a sound GGUF file, so there is nothing to look at.
    """
    found = header.read(path)
    findings = [finding for rule in _RULES for finding in rule(found)]
    if weights:
        findings += _not_finite(path, found)
    return tuple(findings)


def _main_type(found: Header) -> Type | None:
    """The type of most bytes of the matrices, embeddings and head apart."""
    sizes: Counter[Type] = Counter()
    for tensor in found.tensors:
        if quantizable(tensor) and tensor.name not in HEADS:
            sizes[tensor.type] += tensor.bytes
    return sizes.most_common(1)[0][0] if sizes else None


def _bytes_as(tensor: TensorInfo, other: Type) -> int:
    block, size = GGML_QUANT_SIZES[other]
    return tensor.bytes * GGML_QUANT_SIZES[tensor.type][0] // GGML_QUANT_SIZES[tensor.type][1] * size // block


def _head(found: Header) -> Iterator[Finding]:
    main = _main_type(found)
    if main is None or main in FLOATS:
        return
    for tensor in found.tensors:
        if tensor.name in HEADS and tensor.type in FLOATS:
            saved = tensor.bytes - _bytes_as(tensor, Type.Q8_0)
            reads = "every token reads all of it" if _is_head(tensor, found) else "a token reads one row of it"
            yield Finding(
                severity="cost",
                where=tensor.name,
                what=f"is left in {tensor.type.name} in a file of {main.name}",
                cost=f"{saved:,} bytes ({saved / found.file_bytes:.0%} of the file) more than in Q8_0; {reads}",
            )


def _is_head(tensor: TensorInfo, found: Header) -> bool:
    return tensor.name == "output.weight" or all(other.name != "output.weight" for other in found.tensors)


def _fallbacks(found: Header) -> Iterator[Finding]:
    main = _main_type(found)
    declared = found.metadata.get("general.file_type")
    asked = _type_of_file(declared)
    if asked not in BLOCKS_OF_256:
        return
    block, size = GGML_QUANT_SIZES[asked]
    for tensor in found.tensors:
        if tensor.type in FALLBACK.values() and tensor.width % block and tensor.name not in HEADS:
            # The bytes that the asked type would take if its blocks divided the rows.
            numbers = int(np.prod(tensor.shape))
            yield Finding(
                severity="cost",
                where=tensor.name,
                what=f"fell back to {tensor.type.name}: rows of {tensor.width} are no multiple of {block}",
                cost=f"{tensor.bytes - numbers * size // block:,} bytes more than {asked.name}, and a slower kernel "
                f"beside {main.name if main else 'the rest'}",
            )


def _type_of_file(declared: Any) -> Type | None:
    """The tensor type that a file type is named after: MOSTLY_Q4_K_M is Q4_K."""
    try:
        name = LlamaFileType(declared).name.split("_", 1)[1]
    except (ValueError, TypeError, IndexError):
        return None
    for ending in ("", "_S", "_M", "_L"):
        if name.endswith(ending) and name.removesuffix(ending) in Type.__members__:
            return Type.__members__[name.removesuffix(ending)]
    return None


def _is_mixture(declared: Any) -> bool:
    """Whether a file type is named after its bits: MOSTLY_IQ3_XS holds IQ3_S and IQ3_XXS, and neither has its name."""
    try:
        return LlamaFileType(declared).name.startswith("MOSTLY_IQ")
    except ValueError:
        return False


def _file_type(found: Header) -> Iterator[Finding]:
    declared, main = found.metadata.get("general.file_type"), _main_type(found)
    asked = _type_of_file(declared)
    # A file in the type that all of it fell back to has findings that say so.
    if main is None or (asked is not None and main in {asked, FALLBACK.get(asked)}):
        return
    if asked is None and _is_mixture(declared):
        return
    yield Finding(
        severity="error",
        where="general.file_type",
        what=f"is {declared} ({asked.name if asked else 'no type'}), but most of the weights are {main.name}",
        cost="tools and reports show a wrong recipe",
    )


def _template(found: Header) -> Iterator[Finding]:
    if found.architecture in ENCODERS:
        return
    key = "tokenizer.chat_template"
    template = found.metadata.get(key)
    if not isinstance(template, str) or not template.strip():
        cost = "a chat is framed by whatever template the program guesses"
        yield Finding(severity="error", where=key, what="is missing", cost=cost)
        return
    why = _broken(template)
    if why:
        cost = "a chat fails, or the student sees prompts unlike those it was trained on"
        yield Finding(severity="error", where=key, what=why, cost=cost)


def _broken(template: str) -> str | None:
    question = {"role": "user", "content": QUESTION}
    request = {"do": "render", "template": template, "messages": [question], "memory_bytes": RENDER_BYTES}
    try:
        with engine.ask(request, bytes_read=0, cpu_s=RENDER_CPU_S) as folder:
            said = engine.reply(folder)
    except EngineCrashed as error:
        return f"does not end: {error}"
    if "error" in said:
        return f"fails on one question: {said['error']}"
    return None if QUESTION in said["text"] else "leaves the question out"


def _vocabulary(found: Header) -> Iterator[Finding]:
    key = "tokenizer.ggml.tokens"
    tokens = found.metadata.get(key)
    if not isinstance(tokens, list) or not tokens:
        yield Finding(severity="error", where=key, what="is missing", cost="the file does not load")
        return
    for tensor in found.tensors:
        if tensor.name in HEADS and tensor.shape[0] != len(tokens):
            yield Finding(
                severity="error",
                where=tensor.name,
                what=f"has {tensor.shape[0]} rows for {len(tokens)} tokens",
                cost="the file does not load, or pieces stand for other pieces' embeddings",
            )
    for name in ("token_type", "scores"):
        values = found.metadata.get(f"tokenizer.ggml.{name}")
        if isinstance(values, list) and len(values) != len(tokens):
            what = f"has {len(values)} entries for {len(tokens)} tokens"
            yield Finding(severity="error", where=f"tokenizer.ggml.{name}", what=what, cost="the file does not load")
    if len(set(tokens)) != len(tokens):
        double = Counter(tokens).most_common(1)[0][0]
        yield Finding(severity="error", where=key, what=f"has {double!r} twice", cost="the file does not load")
    pre = found.metadata.get("tokenizer.ggml.pre")
    if found.metadata.get("tokenizer.ggml.model") == "gpt2" and str(pre) not in PRE_TOKENIZERS:
        cost = "the file does not load" if pre else "texts are cut by a default rule, and answers get worse"
        what = f"is {pre!r}, which llama.cpp does not know" if pre else "is missing"
        yield Finding(severity="error", where="tokenizer.ggml.pre", what=what, cost=cost)


def _special(found: Header) -> Iterator[Finding]:
    tokens = found.metadata.get("tokenizer.ggml.tokens")
    tokens = tokens if isinstance(tokens, list) else []
    types = found.metadata.get("tokenizer.ggml.token_type")
    size = len(tokens)
    encoder = found.architecture in ENCODERS
    names = {"bos": "bos", "eos": "eos", "sep": "seperator", "unk": "unknown", "pad": "padding"}  # GGUF spells it so
    ids = {short: found.metadata.get(f"tokenizer.ggml.{name}_token_id") for short, name in names.items()}
    needed = {"bos", "sep"} if encoder else {"eos"}
    needed |= {end for end in ("bos", "eos", "sep") if found.metadata.get(f"tokenizer.ggml.add_{end}_token")}
    for short, name in names.items():
        number, key = ids[short], f"tokenizer.ggml.{name}_token_id"
        if number is None:
            if short in needed:
                cost = "generation runs to its limit" if short == "eos" else "texts begin or end with another token"
                yield Finding(severity="error", where=key, what="is missing", cost=cost)
        elif not isinstance(number, int) or number >= size:
            what = f"is {number}, and there are {size} tokens"
            yield Finding(severity="error", where=key, what=what, cost="llama.cpp takes a default id instead")
        elif short in {"bos", "eos", "sep"} and not _is_control(types, number):
            what = f"is {number} ({tokens[number]!r}), which is no control token"
            yield Finding(severity="error", where=key, what=what, cost="it can appear in texts and is printed")


def _is_control(types: Any, number: int) -> bool:
    known = isinstance(types, list) and number < len(types)
    return not known or types[number] in {TokenType.CONTROL, TokenType.UNKNOWN}


def _places(found: Header) -> Iterator[Finding]:
    last = 0
    for tensor in sorted(found.tensors, key=lambda one: one.offset):
        if tensor.offset % found.alignment or tensor.offset < last:
            why = "overlaps the tensor before it" if tensor.offset < last else f"is not aligned to {found.alignment}"
            cost = "the file does not load, or reads are slower"
            yield Finding(severity="error", where=tensor.name, what=f"at byte {tensor.offset} {why}", cost=cost)
        last = tensor.offset + tensor.bytes


def _limits(found: Header) -> Iterator[Finding]:
    """Where llama.cpp's graph of a family computes something else than the model."""
    window, context = found.of_family("attention.sliding_window"), found.of_family("context_length")
    numbers = isinstance(window, int) and isinstance(context, int)
    if found.architecture == "phi3" and numbers and 0 < window < context:
        yield Finding(
            severity="error",
            where="phi3.attention.sliding_window",
            what=f"is {window} of {context}, and llama.cpp does not slide it",
            cost=f"answers differ from the checkpoint's past {window} tokens; keep contexts shorter",
        )


def _not_finite(path: Path, found: Header) -> Iterator[Finding]:
    for tensor in found.tensors:
        bad = sum(_count_not_finite(chunk, tensor.type) for chunk in _chunks(path, tensor))
        if bad:
            what = f"has {bad} {'numbers' if tensor.type in FLOATS else 'block scales'} that are not finite"
            yield Finding(severity="error", where=tensor.name, what=what, cost="every answer is garbage")


def _chunks(path: Path, tensor: TensorInfo) -> Iterator[NDArray[np.uint8]]:
    """The bytes of a tensor in whole blocks: [blocks, bytes a block]."""
    size = GGML_QUANT_SIZES[tensor.type][1]
    mapped = np.memmap(path, dtype=np.uint8, mode="r", offset=tensor.offset, shape=(tensor.bytes // size, size))
    step = CHUNK_BYTES // size
    for start in range(0, len(mapped), step):
        yield np.asarray(mapped[start : start + step])


def _count_not_finite(blocks: NDArray[np.uint8], kind: Type) -> int:
    """An exponent of all ones is infinity or not a number, in every binary format of IEEE 754."""
    if kind in SCALES:
        offset, count = SCALES[kind]
        blocks = np.ascontiguousarray(blocks[:, offset : offset + 2 * count])
    elif kind not in FLOATS:
        return 0
    if kind == Type.F32:
        exponents = blocks.view(np.uint32) & 0x7F800000 == 0x7F800000
    elif kind == Type.BF16:
        exponents = blocks.view(np.uint16) & 0x7F80 == 0x7F80
    else:
        exponents = blocks.view(np.uint16) & 0x7C00 == 0x7C00
    return int(exponents.sum())


_RULES: tuple[Callable[[Header], Iterator[Finding]], ...] = (
    _places,
    _vocabulary,
    _special,
    _template,
    _file_type,
    _head,
    _fallbacks,
    _limits,
)
