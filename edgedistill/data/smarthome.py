"""The default data set: what people say to a smart home, drawn from a grammar that is ours (`smarthome.toml`).

Nothing leaks from the test rows into training:

- each frame (sentence pattern) belongs to one split, drawn by the seed: a pattern that is tested was never trained on;
- no text occurs twice, within a split or across splits, also when case and punctuation are ignored;
- some slot values (rooms, lamps, tasks, ...) occur in the test rows only.
"""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.types import SPLITS

OUT_OF_SCOPE = "out_of_scope"
_TOKEN = re.compile(r"\{[^][(){}|]*\}|[][(){}|]|[^][(){}|]+")
SAID_TOGETHER = 8
"""Texts in the context of a question."""
_DRAWS = 60
"""Fruitless draws after which a frame counts as used up."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Parts that follow one another."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Parts of which one is taken, each with the same chance."""

    options: tuple[Node, ...]


Node = str | Chain | Choice


def parse(frame: str, slots: Mapping[str, Sequence[str]]) -> Node:
    """Reads a frame: `(a|b)` takes one, `[a]` may be left out, `{slot}` takes a value of the slot; these nest.

    Args:
        frame: one sentence pattern, already unfolded.
        slots: the values that each slot can take.

    Raises:
        InputError: a bracket is not closed or not opened, an alternative is empty, or a slot does not exist.
    """
    tokens = deque(_TOKEN.findall(frame))
    node = _chain(frame, tokens, slots)
    if tokens:
        raise _broken(frame, f"{tokens[0]!r} stands outside of brackets")
    return node


def _chain(frame: str, tokens: deque[str], slots: Mapping[str, Sequence[str]]) -> Chain:
    parts: list[Node] = []
    while tokens and tokens[0] not in ")]|":
        token = tokens.popleft()
        if token in "([":
            parts.append(_group(frame, tokens, slots, token))
        elif token in "{}":
            raise _broken(frame, f"a stray {token!r}")
        elif token[0] != "{":
            parts.append(token)
        elif token[1:-1] in slots:
            parts.append(Choice(tuple(slots[token[1:-1]])))
        else:
            raise _broken(frame, f"no slot {token}; there are {', '.join(sorted(slots))}")
    if not any(not isinstance(part, str) or part.strip() for part in parts):
        raise _broken(frame, "an empty part; write [a] for something that may be left out")
    return Chain(tuple(parts))


def _group(frame: str, tokens: deque[str], slots: Mapping[str, Sequence[str]], opened: str) -> Choice:
    options = [_chain(frame, tokens, slots)]
    while tokens and tokens[0] == "|":
        tokens.popleft()
        options.append(_chain(frame, tokens, slots))
    if not tokens or tokens.popleft() != {"(": ")", "[": "]"}[opened]:
        raise _broken(frame, f"{opened!r} is not closed")
    chosen = Choice(tuple(options))
    # An optional part is there half of the time, however many alternatives it has.
    return chosen if opened == "(" else Choice(("", chosen))


def _broken(frame: str, what: str) -> InputError:
    return InputError(f"frame {frame!r}: {what}", hint="see the rules at the top of smarthome.toml")


def size(node: Node) -> int:
    """Number of ways to draw from a frame."""
    if isinstance(node, str):
        return 1
    if isinstance(node, Chain):
        return prod(size(part) for part in node.parts)
    return sum(size(option) for option in node.options)


def draw(node: Node, rng: random.Random) -> str:
    """One text of a frame, with single spaces."""

    def raw(node: Node) -> str:
        if isinstance(node, str):
            return node
        return "".join(raw(part) for part in node.parts) if isinstance(node, Chain) else raw(rng.choice(node.options))

    return re.sub(r" (?=[,?])", "", " ".join(raw(node).split()))


def normalized(text: str) -> str:
    """The text without case and punctuation: two rows with the same one are the same sentence."""
    return " ".join(re.sub(r"[^\w\s]", "", text.casefold()).split())


@cache
def grammar() -> Mapping[str, Any]:
    """The grammar file as it is written: tables `rows`, `share`, `surface`, `slots` and `frames`."""
    return tomllib.loads(Path(__file__).with_name("smarthome.toml").read_text(encoding="utf-8"))


def unfolded(frame: str) -> list[str]:
    """The frames that a line of the grammar stands for: one for each alternative of `<a|b>`."""
    before, opened, rest = frame.partition("<")
    if not opened and ">" not in frame:
        return [frame]
    inside, closed, after = rest.partition(">")
    if not closed or set(inside) & set("<([])"):
        raise _broken(frame, "'<' and '>' do not match, or have brackets between them")
    return [one for option in inside.split("|") for one in unfolded(before + option + after)]


def frames(seed: int = 0) -> dict[str, dict[str, list[str]]]:
    """The frames of each split and label; each frame is in one split only."""
    rng = random.Random(seed)
    parts: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    for label, lines in grammar()["frames"].items():
        shuffled = [frame for line in lines for frame in unfolded(line)]
        rng.shuffle(shuffled)
        start = 0
        for split in ("validation", "test"):
            count = round(grammar()["share"][split] * len(shuffled))
            parts[split][label] = shuffled[start : start + count]
            start += count
        parts["train"][label] = shuffled[start:]
    return parts


def _written(text: str, rng: random.Random) -> str:
    """The text as somebody types it, or as a speech recogniser hears it."""
    surface = grammar()["surface"]
    long_words = list(re.finditer(r"[a-z]{5,}", text))
    if long_words and rng.random() < surface["typo"]:
        word = rng.choice(long_words)
        # First and last letters stay: "unlock" must not turn into "lock" by a slip.
        at = rng.randrange(word.start() + 1, word.end() - 2)
        one, two = text[at], text[at + 1]
        text = text[:at] + rng.choice((two + one, one, one + two + two)) + text[at + 2 :]
    if rng.random() < surface["no_apostrophe"]:
        text = text.replace("'", "")
    if rng.random() < surface["spoken"]:
        return text.lower().rstrip("?")
    text = re.sub(r"\bi\b", "I", text[0].upper() + text[1:])
    return text if text.endswith("?") else text + rng.choice(("", "", ".", "!"))


def questions(count: int, split: str = "test") -> list[dict[str, str]]:
    """Questions with contexts made of several texts, for readers without rows of their own; nobody wrote the answers.

    Args:
        count: how many, at most.

    Returns:
        Rows with the fields "question" and "context".
    """
    rows = generate()[split]
    contexts = len(rows) // SAID_TOGETHER
    made = []
    for number in range(min(count, contexts)):
        together = rows[number : SAID_TOGETHER * contexts : contexts]
        about = together[number % SAID_TOGETHER]["label"].replace("_", " ")
        context = " ".join(f"{row['text'].rstrip('.?! ')}." for row in together)
        made.append({"question": f"What was said about {about}?", "context": context})
    return made


def generate(seed: int = 0) -> dict[str, list[dict[str, str]]]:
    """Draws the data set: train, validation and test rows with the fields "text" and "label".

    The same seed gives the same rows. No frame and no text is in two splits; values marked `test_only` in the grammar
    are in the test rows only.

    Raises:
        InputError: a frame is broken, or the frames of a label have fewer texts than rows are asked for.
    """
    rng = random.Random(seed)
    quotas = grammar()["rows"]
    seen: set[str] = set()
    data: dict[str, list[dict[str, str]]] = {}
    for split, by_label in frames(seed).items():
        more = ("values", "test_only") if split == "test" else ("values",)
        slots = {name: [value for kind in more for value in slot[kind]] for name, slot in grammar()["slots"].items()}
        rows: list[dict[str, str]] = []
        for label, patterns in by_label.items():
            quota = quotas[label if label in quotas else "intent"][split]
            open_frames = deque(parse(pattern, slots) for pattern in patterns)
            texts: list[str] = []
            while open_frames and len(texts) < quota:
                if (text := _fresh(open_frames[0], seen, rng)) is None:
                    open_frames.popleft()
                else:
                    texts.append(text)
                    # Frames take turns, so that a rich one does not crowd out the others.
                    open_frames.rotate(-1)
            if len(texts) < quota:
                raise InputError(
                    f"label {label!r}: its {split} frames give {len(texts)} of {quota} texts",
                    hint="add frames or alternatives in smarthome.toml",
                )
            rows += ({"text": text, "label": label} for text in texts)
        rng.shuffle(rows)
        data[split] = rows
    return data


def _fresh(node: Node, seen: set[str], rng: random.Random) -> str | None:
    """A text that is new both as drawn and as written, or None when the frame has none left."""
    for _ in range(_DRAWS):
        drawn = draw(node, rng)
        text = _written(drawn, rng)
        keys = {normalized(drawn), normalized(text)}
        if not keys & seen:
            seen |= keys
            return text
    return None


def write(folder: Path, seed: int = 0) -> None:
    """Writes train.jsonl, validation.jsonl and test.jsonl into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in generate(seed).items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
