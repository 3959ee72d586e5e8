"""The teacher as its user has it: PyTorch and its own tokenizer, in a child process, through the same measuring loop.

python -m edgedistill.bench.teacher FOLDER --threads 2 --texts texts.json --what timing
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers.utils import logging as untyped

from edgedistill.runtime import cell, measure, reference, writing
from edgedistill.runtime.spans import best, windows
from edgedistill.teachers import chat
from edgedistill.teachers.local import TOKENIZER, config_of

HEADS: Mapping[str, str] = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForCausalLM": "AutoModelForCausalLM",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
}
"""How a checkpoint's architecture ends, and what opens it."""
WRITERS = ("ForCausalLM", "ForConditionalGeneration")
READER = "ForQuestionAnswering"
LONGEST = 10**6
"""Of a prompt and its answer, where the checkpoint does not say."""


def main() -> None:
    """Prints raw samples as JSON, like `python -m runtime measure`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--what", choices=["timing", "memory", "answers", "writing"], default="timing")
    parser.add_argument("--cell", type=Path)
    options = parser.parse_args()
    logging: Any = untyped
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    texts = json.loads(options.texts.read_text(encoding="utf-8"))
    asked = {"batch_rows": options.batch_rows} | ({} if options.cell is None else cell.read(options.cell))
    sys.stdout.write(json.dumps(samples(options.folder, texts, options.what, asked, options.max_tokens)))


def samples(folder: Path, texts: Sequence[Any], what: str, asked: Mapping[str, Any], max_tokens: int) -> dict[str, Any]:
    """Raw samples of one cell, as `edgedistill.runtime.cell` has them of a bundle.

    Args:
        texts: texts, pairs of them, questions with their contexts, or conversations.
        asked: of the cell: within, limit_s, batch_rows, prompt_tokens, new_tokens.
        max_tokens: longest text that is classified or read, in pieces; what is longer is cut, or read in windows.
    """
    head = head_of(folder)
    if head in WRITERS:
        load_writer = partial(Writer if head == "ForCausalLM" else Rewriter, folder, head)
        if what == "memory":
            return measure.memory(lambda: _whole(load_writer()), texts)
        chosen = {key: value for key, value in asked.items() if key != "batch_rows"}
        return writing.writing(load_writer, texts, **chosen) | {"reference_ms": reference.times_ms()}
    load = partial(_reader if head == READER else _classifier, folder, head, max_tokens)
    if what == "memory":
        return measure.memory(load, texts)
    if what == "answers":
        found, told = measure.answers(load(), texts)
        if head == READER:
            return {"spans": [[span.start, span.end, span.score] for span in found], **told}
        return {"logits": [row.tolist() for row in found], **told}
    kept = {key: value for key, value in asked.items() if key not in ("prompt_tokens", "new_tokens")}
    return measure.timing(load, texts, **kept) | {"reference_ms": reference.times_ms()}


def head_of(folder: Path) -> str:
    """What a checkpoint does, by the end of its architecture's name. Raises ValueError for one that is not measured."""
    names = [str(name) for name in config_of(folder).get("architectures") or ()]
    for head in HEADS:
        if any(name.endswith(head) for name in names):
            return head
    raise ValueError(f"{folder} is {', '.join(names) or 'of no architecture'}, which does none of {', '.join(HEADS)}")


def _opened(folder: Path, head: str) -> Any:
    kind: Any = getattr(transformers, HEADS[head])
    opened = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, local_files_only=True)
    return opened.eval()


def _tokenizer(folder: Path) -> Any:
    untyped_class: Any = transformers.AutoTokenizer
    return untyped_class.from_pretrained(folder, local_files_only=True)


def _classifier(folder: Path, head: str, max_tokens: int) -> measure.Answer:
    tokenizer, model = _tokenizer(folder), _opened(folder, head)

    @torch.inference_mode()
    def answer(batch: Sequence[Any]) -> Any:
        pairs = not isinstance(batch[0], str)
        texts: Sequence[Any] = tuple(map(list, zip(*batch, strict=True))) if pairs else (list(batch),)
        inputs = tokenizer(*texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        return model(**inputs).logits.numpy()

    return answer


def _reader(folder: Path, head: str, max_tokens: int) -> measure.Answer:
    """Reads as the runtime does, in the same windows; only what computes is another."""
    tokenizer, model = Tokenizer.from_file(str(folder / TOKENIZER)), _opened(folder, head)
    typed = getattr(model.config, "type_vocab_size", 0) > 1

    @torch.inference_mode()
    def scores(window: Any) -> Any:
        inputs = {"input_ids": torch.tensor([window.ids]), "attention_mask": torch.tensor([window.attention_mask])}
        if typed:
            inputs["token_type_ids"] = torch.tensor([window.type_ids])
        said = model(**inputs)
        return torch.stack([said.start_logits[0], said.end_logits[0]], dim=1).numpy()

    def answer(batch: Sequence[Any]) -> Any:
        found = []
        for question, context in batch:
            read = windows(tokenizer, question, context, max_tokens)
            found.append(best(read, [scores(window) for window in read], context))
        return found

    return answer


class Writer:
    """A decoder, step by step, greedily; keys and values of earlier tokens are kept."""

    def __init__(self, folder: Path, head: str) -> None:
        self._tokenizer, self._model = _tokenizer(folder), _opened(folder, head)
        self._room = int(getattr(self._model.config, "max_position_embeddings", None) or LONGEST)

    def prompt(self, said: Any) -> list[int]:
        """The tokens of a conversation, or of a text that begins one."""
        turns = [{"role": "user", "content": said}] if isinstance(said, str) else said
        text = chat.text_of(self._tokenizer, chat.folded(self._tokenizer, turns))
        return self._ids(text, special=self._tokenizer.chat_template is None)

    def holds(self, prompt_tokens: int, new_tokens: int) -> bool:
        """Whether a prompt and its answer fit into the context."""
        return prompt_tokens + new_tokens <= self._room

    def work(self, prompt: Sequence[int], new_tokens: int) -> Iterator[int]:
        """Reads a prompt before it returns, and writes so many tokens, whatever would end the answer."""
        with torch.inference_mode():
            said = self._model(input_ids=torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
        return islice(self._write(said, "input_ids", {}), new_tokens)

    def _ids(self, text: str, *, special: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    def _write(self, said: Any, name: str, fixed: Mapping[str, Any]) -> Iterator[int]:
        while True:
            token = int(said.logits[0, -1].argmax())
            yield token
            with torch.inference_mode():
                step = {name: torch.tensor([[token]]), "past_key_values": said.past_key_values, "use_cache": True}
                said = self._model(**step, **fixed)


class Rewriter(Writer):
    """A model that writes a text for a text: the prompt is what its encoder reads."""

    def prompt(self, said: Any) -> list[int]:
        """The tokens of a text."""
        return self._ids(str(said), special=True)

    def holds(self, prompt_tokens: int, new_tokens: int) -> bool:
        """Whether both fit: the text has places of its own, and the answer too."""
        return max(prompt_tokens, new_tokens) <= self._room

    def work(self, prompt: Sequence[int], new_tokens: int) -> Iterator[int]:
        """Encodes a text before it returns; the first token is a step of the decoder."""
        with torch.inference_mode():
            read = self._model.get_encoder()(input_ids=torch.tensor([prompt]))
        return islice(self._begin(read), new_tokens)

    def _begin(self, read: Any) -> Iterator[int]:
        start = torch.tensor([[self._model.config.decoder_start_token_id]])
        with torch.inference_mode():
            said = self._model(encoder_outputs=read, decoder_input_ids=start, use_cache=True)
        yield from self._write(said, "decoder_input_ids", {"encoder_outputs": read})


def _whole(model: Writer) -> Callable[[Sequence[Any]], Any]:
    """What writes answers as a whole, as long as memory is measured with."""
    return lambda asked: [list(model.work(model.prompt(said), cell.HELD_TOKENS)) for said in asked]


if __name__ == "__main__":
    main()
