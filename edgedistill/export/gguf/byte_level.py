"""Byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM, Phi-4-mini): "gpt2" in GGUF, with the name of its splitting rule.

llama.cpp carries the rules in its code and reads only a name, so a rule that it does not have cannot be written. The
converter tells rules apart by a hash of the pieces of one text, which a trimmed vocabulary changes; here it is the rule
itself that is looked up.
"""

from __future__ import annotations

from typing import Any

from edgedistill.export.gguf.pieces import Kind, refused, steps

_SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
QWEN2 = rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
LLAMA3 = rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIXES}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIXES}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_KEEPS = {("Isolated", False), ("Removed", True)}
GPT2 = "GPT-2's own rule, inside the step ByteLevel"
DIGITS = "each digit apart, then " + GPT2
RULES = {
    (GPT2, False): "gpt-2",
    (DIGITS, False): "smollm",
    (QWEN2, False): "qwen2",
    # llama.cpp takes whole words without merging under the name of Llama 3 and merges them under that of DBRX.
    (LLAMA3, True): "llama-bpe",
    (LLAMA3, False): "dbrx",
    (GPT4O, False): "gpt-4o",
}


def bpe(spec: dict[str, Any]) -> Kind:
    """The kind of a byte-level BPE tokenizer.json.

    Raises:
        StageError: llama.cpp does not know its splitting rule, or it normalizes texts.
    """
    model = spec["model"]
    # NFC changes nothing in texts that are in it already, as nearly all are; llama.cpp has no such step.
    if odd := [step["type"] for step in steps(spec["normalizer"]) if step["type"] != "NFC"]:
        raise refused(f"the normalizer {odd[0]} before byte-level BPE")
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model[affix]:
            raise refused(f"the {affix} {model[affix]!r}")
    rule = (_rule(spec), bool(model["ignore_merges"]))
    if rule not in RULES:
        raise refused(f"the pre-tokenizer {rule[0]!r}" + (" and ignore_merges" if rule[1] else ""))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return Kind(model="gpt2", pre=RULES[rule], merges=merges)


def _rule(spec: dict[str, Any]) -> str:
    """The splitting rule in one string: a regular expression, or one of the two that are not written as one."""
    found = steps(spec["pre_tokenizer"])
    if not found or found[-1]["type"] != "ByteLevel" or found[-1]["add_prefix_space"]:
        return " then ".join(step["type"] for step in found) or "none"
    *before, last = found
    if last["use_regex"]:
        if not before:
            return GPT2
        if len(before) == 1 and before[0]["type"] == "Digits" and before[0]["individual_digits"]:
            return DIGITS
    elif len(before) == 1 and before[0]["type"] == "Split":
        pattern = before[0]["pattern"].get("Regex")
        # Two ways to keep the matches: the rules above leave nothing between them.
        if pattern is not None and (before[0]["behavior"], before[0]["invert"]) in _KEEPS:
            return str(pattern)
    return " then ".join(str(step.get("pattern", step["type"])) for step in found)
