"""Teachers behind an endpoint: OpenAI's chat completions, which most servers speak, and Anthropic's messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgedistill.config import LabelTeacher
from edgedistill.teachers.answerer import Broken, Declined, Failure
from edgedistill.teachers.http import Http, key_of
from edgedistill.types import Ask, Finish, Reply, Signal

OPENAI = "https://api.openai.com/v1"
ANTHROPIC = "https://api.anthropic.com"
ANTHROPIC_VERSION = "2023-06-01"
LIMITS = ("max_tokens", "max_completion_tokens")
ENDS: Mapping[str, Finish] = {"max_tokens": "length", "model_context_window_exceeded": "length", "refusal": "refusal"}
"""How a message of Anthropic's ends early."""
FORMS = ("json_schema", "schema", "json_object", "none")
"""Ways to ask for an answer's form, from the strictest on; an endpoint that refuses one is asked the next way."""
FORM_WORDS = ("response_format", "json_schema", "json_object", "schema", "grammar", "literal", "extra")
TOOL = "answer"
UNREADABLE = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)
"""What comes of reading an answer that is built differently."""


class OpenAI:
    """Any endpoint that speaks OpenAI's chat completions: OpenAI, Azure, DeepSeek, vLLM, llama.cpp's server."""

    batch = 1
    linger_s = 0.0

    def __init__(self, settings: LabelTeacher, environment: Mapping[str, str] | None = None) -> None:
        self.settings = settings
        base = (settings.base_url or OPENAI).rstrip("/")
        key = key_of(settings, environment, needed=base == OPENAI)
        header = settings.key_header or "authorization"
        value = f"Bearer {key}" if header.lower() == "authorization" else key
        self.base = base
        self.http = Http(f"{base}/chat/completions", {header: value} if key else {}, settings, key)
        self.name = settings.title
        self.identity = {"kind": "openai", "url": base, "model": settings.model, "query": settings.query}
        self.slots = settings.concurrency
        self.gives: tuple[Signal, ...] = (
            ("text", "labels", "top-k log-probabilities") if settings.logprobs else ("text", "labels")
        )
        self._forms = list(FORMS if settings.structured == "auto" else (settings.structured,))
        self._without: set[str] = set()

    @property
    def enforces(self) -> bool:
        """Whether the endpoint holds an answer to its schema."""
        return self._forms[0] != "none"

    def body(self, ask: Ask) -> dict[str, Any]:
        """The request as the endpoint wants it."""
        newer = self.base == OPENAI or "max_tokens" in self._without
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": list(ask.messages),
            "max_completion_tokens" if newer else "max_tokens": ask.max_tokens,
        }
        if "temperature" not in self._without:
            body["temperature"] = ask.temperature
        if self.settings.logprobs:
            body |= {"logprobs": True, "top_logprobs": self.settings.logprobs}
        form = self._forms[0]
        if ask.schema is not None and form == "json_schema":
            schema = {"name": "answer", "schema": ask.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif ask.schema is not None and form == "json_object":
            body["response_format"] = {"type": "json_object"}
        elif ask.schema is not None and form == "schema":  # how llama-cpp-python's server wants it
            body["response_format"] = {"type": "json_object", "schema": ask.schema}
        if self.settings.extra.keys() & LIMITS:
            for limit in LIMITS:
                body.pop(limit, None)
        return body | self.settings.extra

    async def answer(self, asks: Sequence[Ask]) -> Sequence[Reply | Failure]:
        """Asks the endpoint. What it says that it does not know is left away from then on."""
        ask = asks[0]
        while True:
            forms, without = list(self._forms), set(self._without)
            try:
                return (read_completion(await self.http.post(self.body(ask), key=ask.key)),)
            except (Declined, Broken) as refused:
                said = str(refused).lower()
                if isinstance(refused, Broken) and "response_format" not in said:
                    raise  # llama-cpp-python's server answers 500 to a body that it does not understand
                if (forms, without) == (self._forms, self._without) and not self._adapt(said, ask):
                    raise

    def _adapt(self, said: str, ask: Ask) -> bool:
        """Changes the way of asking after a refusal, if that may help: models differ in what they accept."""
        for name, sign in (("temperature", "temperature"), ("max_tokens", "max_completion_tokens")):
            if sign in said and name not in self._without:
                self._without.add(name)
                return True
        if ask.schema is not None and len(self._forms) > 1 and any(word in said for word in FORM_WORDS):
            del self._forms[0]
            return True
        return False

    async def close(self) -> None:
        """Closes the connections."""
        await self.http.close()


class Anthropic:
    """Anthropic's messages API.

    An answer with a schema is asked for as the input of a tool that must be used, and, of models that refuse that, as
    the format of the output.
    """

    batch = 1
    linger_s = 0.0
    enforces = True
    gives: tuple[Signal, ...] = ("text", "labels")

    def __init__(self, settings: LabelTeacher, environment: Mapping[str, str] | None = None) -> None:
        self.settings = settings
        base = (settings.base_url or ANTHROPIC).rstrip("/")
        key = key_of(settings, environment, needed=base == ANTHROPIC)
        headers = {"anthropic-version": ANTHROPIC_VERSION} | ({settings.key_header or "x-api-key": key} if key else {})
        self.http = Http(f"{base}/v1/messages", headers, settings, key)
        self.name = settings.title
        self.identity = {"kind": "anthropic", "url": base, "model": settings.model}
        self.slots = settings.concurrency
        self._without: set[str] = set()

    def body(self, ask: Ask) -> dict[str, Any]:
        """The request as the endpoint wants it: system messages apart from the turns."""
        system = "\n\n".join(m["content"] for m in ask.messages if m["role"] == "system")
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": [dict(m) for m in ask.messages if m["role"] != "system"],
            "max_tokens": ask.max_tokens,
        }
        if "temperature" not in self._without:
            body["temperature"] = min(1.0, ask.temperature)
        if system:
            body["system"] = system
        if ask.schema is not None and "tool_choice" in self._without:
            body["output_config"] = {"format": {"type": "json_schema", "schema": ask.schema}}
        elif ask.schema is not None:
            body["tools"] = [{"name": TOOL, "description": "Gives the answer.", "input_schema": ask.schema}]
            body["tool_choice"] = {"type": "tool", "name": TOOL}
        return body | self.settings.extra

    async def answer(self, asks: Sequence[Ask]) -> Sequence[Reply | Failure]:
        """Asks the endpoint. What it says that it does not know is left away from then on."""
        while True:
            without = set(self._without)
            try:
                return (read_message(await self.http.post(self.body(asks[0]), key=asks[0].key)),)
            except Declined as declined:
                refused = {name for name in ("temperature", "tool_choice") if name in str(declined)} - self._without
                if without == self._without and not refused:
                    raise
                self._without |= refused

    async def close(self) -> None:
        """Closes the connections."""
        await self.http.close()


def read_completion(found: Mapping[str, Any]) -> Reply:
    """A reply out of a chat completion. Raises Broken when it is none."""
    try:
        choice = found["choices"][0]
        message = choice["message"]
        usage = found.get("usage") or {}
        text = message.get("content") or ""
        if message.get("refusal"):
            return _reply(found, str(message["refusal"]), "refusal", usage, "prompt_tokens", "completion_tokens")
        if not isinstance(text, str):
            raise TypeError("content is no text")
        finish: Finish = {"length": "length", "content_filter": "refusal"}.get(str(choice.get("finish_reason")), "stop")  # type: ignore[assignment]
        tokens = ((choice.get("logprobs") or {}).get("content")) or []
        return _reply(
            found,
            text,
            finish,
            usage,
            "prompt_tokens",
            "completion_tokens",
            tokens=tuple(str(token["token"]) for token in tokens),
            top_logprobs=tuple(
                likeliest((str(top["token"]), float(top["logprob"])) for top in token.get("top_logprobs") or [token])
                for token in tokens
            ),
        )
    except UNREADABLE as error:
        raise Broken(f"the answer is no chat completion: {type(error).__name__}: {error}", charged=True) from error


def read_message(found: Mapping[str, Any]) -> Reply:
    """A reply out of an Anthropic message. Raises Broken when it is none."""
    try:
        blocks = found["content"]
        used = [block["input"] for block in blocks if block["type"] == "tool_use"]
        text = json.dumps(used[0]) if used else "".join(b["text"] for b in blocks if b["type"] == "text")
        finish: Finish = ENDS.get(str(found.get("stop_reason")), "stop")
        usage = found.get("usage") or {}
        return _reply(found, text, finish, usage, "input_tokens", "output_tokens")
    except UNREADABLE as error:
        raise Broken(f"the answer is no message: {type(error).__name__}: {error}", charged=True) from error


def likeliest(tops: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Log-probabilities by text. Tokens may be written alike, as parts of a letter are; the likelier one counts."""
    found: dict[str, float] = {}
    for token, logprob in tops:
        found[token] = max(logprob, found.get(token, logprob))
    return found


def _reply(
    found: Mapping[str, Any], text: str, finish: Finish, usage: Mapping[str, Any], read: str, written: str, **more: Any
) -> Reply:
    name = found.get("id")
    return Reply(
        text=text,
        finish=finish,
        prompt_tokens=int(usage.get(read) or 0),
        completion_tokens=int(usage.get(written) or 0),
        id=name if isinstance(name, str) and name else None,
        **more,
    )
