"""Teachers in a local checkpoint that writes text: decoders that transformers knows, from safetensors alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.config import LabelTeacher
from edgedistill.errors import InputError
from edgedistill.store import digest, file_sha256
from edgedistill.teachers.answerer import Declined, Failure
from edgedistill.teachers.api import likeliest
from edgedistill.teachers.chat import folded, text_of
from edgedistill.teachers.local import PICKLED, WEIGHTS, quiet
from edgedistill.types import Ask, Reply, Signal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

INDEX = "model.safetensors.index.json"
BATCH = 8


def check(folder: Path) -> list[Path]:
    """The weight files of a checkpoint, after making sure that loading it runs no foreign code.

    Raises:
        InputError: weights are pickled or missing, or the checkpoint wants to bring its own code.
    """
    for name in ("config.json", "tokenizer_config.json"):
        try:
            config = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{folder} has no readable {name}", hint="give the folder of a checkpoint") from error
        if not isinstance(config, dict) or "auto_map" in config:
            raise InputError(
                f"{folder} wants to run its own code ({name})", hint="use a family that transformers knows"
            )
        if "transformers_weights" in config:
            raise InputError(
                f"{folder} names its own file of weights as transformers_weights ({name})",
                hint=f"call the file {WEIGHTS}, or the list of files {INDEX}",
            )
    weights = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).is_file():
        single = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else []  # which transformers prefers to the index
        weights = [*single, *_listed(folder)]
    if not weights:
        pickled = sorted(path.name for suffix in PICKLED for path in folder.glob(f"*{suffix}"))
        if pickled:
            raise InputError(
                f"{folder} has only {', '.join(pickled[:3])}, and pickled weights are never loaded",
                hint="convert it with save_pretrained, which writes safetensors",
            )
        raise InputError(f"{folder} has no safetensors", hint="give a complete checkpoint")
    return weights


def _listed(folder: Path) -> list[Path]:
    """The files that the index of a checkpoint lists."""
    try:
        listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        weights = [folder / name for name in sorted(set(listed))]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder} has no readable {INDEX}", hint="download it again") from error
    wrong = [p.name for p in weights if p.parent != folder or p.suffix != ".safetensors" or not p.is_file()]
    if wrong:
        raise InputError(
            f"{folder} lacks {', '.join(wrong[:3])}",
            hint="download it again; only safetensors in the folder itself are read",
        )
    return weights


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint; code that it may bring is not run.

    Raises:
        InputError: see `check`, or the tokenizer cannot be read.
    """
    from transformers import AutoTokenizer

    check(folder)
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the tokenizer of {folder} cannot be read: {said}", hint="is the checkpoint complete?"
        ) from error
    return found


class Causal:
    """A decoder on this machine. Its tokenizer's chat template makes the prompt; schemas are asked for, not enforced.

    Raises:
        InputError: see `check`, or the family is unknown to transformers.
    """

    batch = BATCH
    slots = 1
    linger_s = 0.0
    enforces = False

    def __init__(self, settings: LabelTeacher, folder: Path) -> None:
        weights = check(folder)
        self.settings = settings
        self.name = settings.title
        # The template and the tokenizer decide the answers as much as the weights do.
        told = [*weights, *(p for p in sorted(folder.glob("*.json")) + sorted(folder.glob("*.jinja")) if p.is_file())]
        self.identity: Mapping[str, Any] = {
            "kind": "transformers",
            "sha256": digest({path.name: file_sha256(path) for path in told}),
        }
        self.gives: tuple[Signal, ...] = (
            ("text", "labels", "top-k log-probabilities") if settings.logprobs else ("text", "labels")
        )
        self._model, self._tokenizer = _load(folder)

    async def answer(self, asks: Sequence[Ask]) -> Sequence[Reply | Failure]:
        """Runs the model in a thread of its own, requests with equal settings together."""
        return await asyncio.to_thread(self._all, asks)

    def _all(self, asks: Sequence[Ask]) -> list[Reply | Failure]:
        from jinja2 import TemplateError

        replies: list[Reply | Failure] = [Declined("not asked")] * len(asks)
        groups: dict[tuple[int, float], list[int]] = {}
        prompts: dict[int, str] = {}
        for number, ask in enumerate(asks):
            try:
                prompts[number] = text_of(self._tokenizer, folded(self._tokenizer, ask.messages))
            except TemplateError as error:  # many take no two turns of the same role
                replies[number] = Declined(f"the chat template refuses the prompt: {error}")
                continue
            groups.setdefault((ask.max_tokens, ask.temperature), []).append(number)
        for (max_tokens, temperature), numbers in groups.items():
            found = self._group([prompts[n] for n in numbers], max_tokens, temperature)
            for number, reply in zip(numbers, found, strict=True):
                replies[number] = reply
        return replies

    def _group(self, prompts: Sequence[str], max_tokens: int, temperature: float) -> list[Reply | Failure]:
        import torch

        tokenizer: Any = self._tokenizer
        encoded = tokenizer(
            list(prompts),
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
            return_token_type_ids=False,  # which no decoder takes
        )
        length = encoded["input_ids"].shape[1]
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if limit is not None and length + max_tokens > limit:
            if len(prompts) > 1:  # one long prompt must not decline its neighbours
                return [reply for prompt in prompts for reply in self._group([prompt], max_tokens, temperature)]
            return [Declined(f"prompt of {length} tokens and {max_tokens} of answer exceed the context of {limit}")]
        model: Any = self._model
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with torch.inference_mode():
            torch.manual_seed(0)
            out = model.generate(
                **encoded.to(model.device),
                max_new_tokens=max_tokens,
                pad_token_id=tokenizer.pad_token_id,
                return_dict_in_generate=True,
                output_logits=bool(self.settings.logprobs),
                **sampling,
            )
        return [
            self._reply(out, number, length, int(encoded["attention_mask"][number].sum()))
            for number in range(len(prompts))
        ]

    def _reply(self, out: Any, number: int, length: int, read: int) -> Reply:
        tokenizer: Any = self._tokenizer
        written = out.sequences[number, length:].tolist()
        ends = _ends(self._model, tokenizer)
        stop = next((place for place, token in enumerate(written) if token in ends), None)
        kept = written if stop is None else written[:stop]
        tops: list[dict[str, float]] = []
        if self.settings.logprobs:
            for step in range(len(kept)):
                row = out.logits[step][number].float().log_softmax(-1).topk(self.settings.logprobs)
                found = zip(row.indices.tolist(), row.values.tolist(), strict=True)
                tops.append(likeliest((tokenizer.decode([token]), value) for token, value in found))
        return Reply(
            text=tokenizer.decode(kept, skip_special_tokens=True),
            finish="length" if stop is None else "stop",
            prompt_tokens=read,
            completion_tokens=len(kept),
            tokens=tuple(tokenizer.decode([token]) for token in kept) if tops else (),
            top_logprobs=tuple(tops),
        )

    async def close(self) -> None:
        """Frees the model."""
        del self._model


def _load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        try:
            untyped: Any = AutoModelForCausalLM
            model, found = untyped.from_pretrained(
                folder,
                dtype="auto" if torch.cuda.is_available() else torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"transformers cannot load {folder}: {said}", hint="is the checkpoint complete?"
            ) from error
    if missing := sorted(found["missing_keys"]):  # transformers would fill them up with random numbers
        raise InputError(
            f"{folder} lacks {len(missing)} weights that its config asks for, such as {missing[0]}",
            hint="download it again",
        )
    if torch.cuda.is_available():
        model.to("cuda")
    model.train(False)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer."""
    ends = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
