"""A tokenizer.json as GGUF knows tokenizers: pieces with types and scores, merges, special ids, chat template.

llama.cpp has a tokenizer of its own for each kind. Whatever it cannot do as the checkpoint's tokenizer does is refused
here, because it would give other pieces without a word. The names of the keys are those of the GGUF specification
(ggml-org/ggml, docs/gguf.md); what each kind expects was read in llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer

from edgedistill.errors import StageError
from edgedistill.export.gguf import byte_level, sentencepiece, wordpiece
from edgedistill.export.gguf.pieces import Kind, refused

SPECIAL = {
    "bos": ("bos_token", GGUFWriter.add_bos_token_id),
    "eos": ("eos_token", GGUFWriter.add_eos_token_id),
    "unk": ("unk_token", GGUFWriter.add_unk_token_id),
    "sep": ("sep_token", GGUFWriter.add_sep_token_id),
    "pad": ("pad_token", GGUFWriter.add_pad_token_id),
    "mask": ("mask_token", GGUFWriter.add_mask_token_id),
}
# llama.cpp reads in the model's name, and nowhere else, that special tokens swallow the spaces after them, save these.
PHI3 = ("phi-3", "phi3")
KEEP_SPACES = {"<unk>", "<s>", "<|endoftext|>"}
KINDS: Mapping[str, Callable[[dict[str, Any]], Kind]] = {
    "BPE": lambda spec: sentencepiece.bpe(spec) if spec["model"]["byte_fallback"] else byte_level.bpe(spec),
    "Unigram": sentencepiece.unigram,
    "WordPiece": wordpiece.wordpiece,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Everything that a GGUF file says about a tokenizer.

    Attributes:
        tokens: the text of each id, as long as the embedding table has rows.
        types: one of `gguf.TokenType` for each id.
        special: the id of "bos", "eos", "unk", "sep", "pad" and "mask", where there is one.
        add_bos: whether a text begins with bos; `add_eos` and `add_sep` (BERT): whether it ends with them.
        swallows: whether special tokens take the spaces after them away, as in Phi-3.
    """

    kind: Kind
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    special: Mapping[str, int]
    add_bos: bool
    add_eos: bool
    add_sep: bool
    chat_template: str | None
    swallows: bool

    def model_name(self, name: str) -> str:
        """The name that goes into the file, by which llama.cpp decides whether special tokens swallow spaces."""
        for known in PHI3:
            name = re.sub(re.escape(known), "phi", name, flags=re.IGNORECASE)
        return f"Phi-3 {name}" if self.swallows else name

    def add_to(self, writer: GGUFWriter) -> None:
        """Writes all of it as metadata."""
        writer.add_tokenizer_model(self.kind.model)
        writer.add_tokenizer_pre(self.kind.pre)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.types))
        if self.kind.scores is not None:
            writer.add_token_scores([self.kind.scores.get(token, -1e4) for token in range(len(self.tokens))])
        if self.kind.merges is not None:
            writer.add_token_merges(list(self.kind.merges))
        for name, number in self.special.items():
            SPECIAL[name][1](writer, number)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.add_sep:
            writer.add_add_sep_token(True)
        self.kind.add_rest(writer)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def read(checkpoint: Path, rows: int) -> Vocabulary:
    """The tokenizer of a checkpoint folder, ready for GGUF.

    Args:
        checkpoint: a folder with tokenizer.json and tokenizer_config.json.
        rows: of the embedding table; ids without a piece become unused ones.

    Raises:
        StageError: llama.cpp has no tokenizer that cuts texts in the same way, or an id has no embedding.
    """
    path = checkpoint / "tokenizer.json"
    if not path.is_file():
        raise StageError(f"{checkpoint} has no tokenizer.json", hint="save its tokenizer with transformers")
    tokenizer = Tokenizer.from_file(str(path))
    spec = json.loads(tokenizer.to_str())  # with the defaults of keys that older files lack
    if spec["model"]["type"] not in KINDS:
        raise refused(f"a {spec['model']['type']} model")
    kind = KINDS[spec["model"]["type"]](spec)
    ids = tokenizer.get_vocab(with_added_tokens=True)
    if max(ids.values()) >= rows:
        piece, number = max(ids.items(), key=lambda item: item[1])
        raise StageError(
            f"{path}: piece {piece!r} has id {number}, but the embedding table has {rows} rows",
            hint="the tokenizer and the model were not trimmed together",
        )
    tokens = [f"[PAD{number}]" for number in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    for piece, number in ids.items():
        tokens[number], types[number] = kind.text(piece), int(kind.type_of(piece))
    for token in spec["added_tokens"]:
        control = token["special"] or _looks_special(token["content"])
        if types[token["id"]] != TokenType.UNKNOWN:
            types[token["id"]] = int(TokenType.CONTROL if control else TokenType.USER_DEFINED)
        # llama.cpp looks for these in the text before it replaces spaces by the mark.
        tokens[token["id"]] = token["content"] if control else token["content"].replace("▁", " ")
    _unique(tokens, path)
    config = _config(checkpoint)
    special = _special(config, ids, spec["model"])
    found = Vocabulary(
        kind=kind,
        tokens=tuple(tokens),
        types=tuple(types),
        special=special,
        add_bos=False,
        add_eos=False,
        add_sep=False,
        chat_template=_template(checkpoint, config),
        swallows=_swallows(spec["added_tokens"], set(ids), mask=special.get("mask")),
    )
    return _with_ends(found, tokenizer)


def _swallows(added: list[dict[str, Any]], pieces: set[str], *, mask: int | None) -> bool:
    """Whether spaces beside special tokens vanish as llama.cpp does it for a model named Phi-3, and for that only.

    Raises:
        StageError: they vanish in another way.
    """
    added = [token for token in added if token["id"] != mask]
    if odd := next((token for token in added if token["lstrip"] or token["single_word"]), None):
        raise refused(f"the token {odd['content']!r}, which looks at what stands before it")
    taking = {token["content"] for token in added if token["rstrip"]}
    if not taking:
        return False
    if taking != {token["content"] for token in added} - KEEP_SPACES or not pieces >= KEEP_SPACES | taking | {"</s>"}:
        raise refused(f"the tokens {sorted(taking)[:3]}, which take the spaces after them away")
    return True


def _unique(tokens: list[str], path: Path) -> None:
    if len(set(tokens)) != len(tokens):
        double = next(token for number, token in enumerate(tokens) if token in tokens[:number])
        raise refused(f"two ids for the piece {double!r} in {path.name}")


def _looks_special(token: str) -> bool:
    """Tokens such as `<|im_start|>` that some checkpoints forget to mark; llama.cpp's converter sees them so, too."""
    marked = (token.startswith("<|") and token.endswith("|>")) or (token.startswith("<unused") and token.endswith(">"))
    return marked or token in {"<pad>", "<mask>"}


def _config(checkpoint: Path) -> dict[str, Any]:
    """tokenizer_config.json laid over special_tokens_map.json, which older checkpoints have instead."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = checkpoint / name
        if path.is_file():
            found |= json.loads(path.read_text(encoding="utf-8"))
    return found


def _special(config: Mapping[str, Any], ids: Mapping[str, int], model: Mapping[str, Any]) -> dict[str, int]:
    named = {}
    for name, (key, _) in SPECIAL.items():
        token = config.get(key)
        text = token["content"] if isinstance(token, dict) else token
        if name == "bos" and text is None:
            token = config.get("cls_token")  # where BERT's texts begin; GGUF has one name for both
            text = token["content"] if isinstance(token, dict) else token
        if name == "unk" and text is None:
            text = model.get("unk_token")
        if text is not None:
            if text not in ids:
                raise StageError(f"the {key} {text!r} is no piece of tokenizer.json", hint="save the tokenizer again")
            named[name] = ids[text]
    return named


def _with_ends(vocabulary: Vocabulary, tokenizer: Tokenizer) -> Vocabulary:
    """What the tokenizer puts around a text, which llama.cpp can do with bos, eos and sep only."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    ids = tokenizer.encode("a", add_special_tokens=True).ids
    at = next((at for at in range(len(ids) - len(bare) + 1) if ids[at : at + len(bare)] == bare), 0)
    before, after = ids[:at], ids[at + len(bare) :]
    special = vocabulary.special
    if before not in ([], [special.get("bos")]):
        raise refused(f"{[vocabulary.tokens[i] for i in before]} before every text")
    if vocabulary.kind.model == "bert":
        if not before or after != [special.get("sep")]:
            raise refused(f"{[vocabulary.tokens[i] for i in after]} after every text")
        return replace(vocabulary, add_bos=True, add_sep=True)
    if after not in ([], [special.get("eos")]):
        raise refused(f"{[vocabulary.tokens[i] for i in after]} after every text")
    return replace(vocabulary, add_bos=bool(before), add_eos=bool(after))


def _template(checkpoint: Path, config: Mapping[str, Any]) -> str | None:
    path = checkpoint / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = next((one["template"] for one in template if one["name"] == "default"), None)
    return template
