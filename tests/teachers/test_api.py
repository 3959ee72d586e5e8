"""Teachers behind endpoints: what is sent, how answers and failures are read. Against a real server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from edgedistill.config import LabelTeacher
from edgedistill.errors import InputError
from edgedistill.teachers.answerer import Broken, Busy, Declined, Failure
from edgedistill.teachers.api import Anthropic, OpenAI, retry_after
from edgedistill.types import Ask, Reply

KEY = "sk-planted-77aa"
SCHEMA = {"type": "object", "properties": {"answer": {"enum": ["on", "off"]}}, "required": ["answer"]}
TURNS = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "On or off?"})
COMPLETION = {
    "id": "c-1",
    "choices": [{"message": {"role": "assistant", "content": '{"answer": "on"}'}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 11, "completion_tokens": 5},
}
MESSAGE = {
    "id": "m-1",
    "content": [{"type": "tool_use", "name": "answer", "input": {"answer": "on"}}],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 12, "output_tokens": 6},
}
Answer = tuple[int, dict[str, str], bytes] | Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes]]


class Scripted(ThreadingHTTPServer):
    """Answers with what a test says, in order, the last again and again; keeps what it was sent."""

    daemon_threads = True
    script: list[Answer]
    seen: list[dict[str, Any]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Scripted

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(
            {"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}, "body": body}
        )
        answer = self.server.script.pop(0) if len(self.server.script) > 1 else self.server.script[0]
        status, more, content = answer(body) if callable(answer) else answer
        if status == 0:  # hang up in the middle
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("Content-Length", more.get("X-Length", str(len(content))))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # who asked has gone
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Scripted]:
    made = Scripted(("127.0.0.1", 0), Handler)
    made.script, made.seen = [good()], []
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def good(content: dict[str, Any] = COMPLETION) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps(content).encode()


def refusal(said: str, status: int = 400) -> tuple[int, dict[str, str], bytes]:
    return status, {}, json.dumps({"error": {"message": said}}).encode()


def teacher(server: Scripted, kind: Any = "openai", **more: Any) -> OpenAI | Anthropic:
    url = server.url if kind == "openai" else server.url.removesuffix("/v1")
    settings = LabelTeacher(kind=kind, model="big", base_url=url, key_env="A_KEY", **{"timeout_s": 5, **more})
    return (OpenAI if kind == "openai" else Anthropic)(settings, {"A_KEY": KEY})


def answer(one: OpenAI | Anthropic, *, schema: dict[str, Any] | None = SCHEMA) -> Reply:
    ask = Ask(key="k1", messages=TURNS, schema=schema, max_tokens=20, temperature=0.0)

    async def go() -> Reply:
        try:
            (reply,) = await one.answer([ask])
        finally:
            await one.close()
        assert isinstance(reply, Reply)
        return reply

    return asyncio.run(go())


def test_a_request_is_what_openai_documents(server: Scripted) -> None:
    reply = answer(teacher(server))
    assert (reply.text, reply.finish, reply.prompt_tokens, reply.completion_tokens) == (
        '{"answer": "on"}',
        "stop",
        11,
        5,
    )
    (seen,) = server.seen
    assert seen["path"] == "/v1/chat/completions"
    assert seen["headers"]["authorization"] == f"Bearer {KEY}"
    assert seen["headers"]["idempotency-key"] == "k1"
    body = seen["body"]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("big", 0.0, 20)
    assert body["messages"] == list(TURNS)
    assert body["response_format"]["json_schema"] == {"name": "answer", "schema": SCHEMA, "strict": True}


def test_azure_takes_its_key_in_a_header_of_its_own_and_its_version_in_the_address(server: Scripted) -> None:
    answer(teacher(server, key_header="api-key", query={"api-version": "2024-10-21"}))
    assert server.seen[0]["headers"]["api-key"] == KEY
    assert "authorization" not in server.seen[0]["headers"]
    assert server.seen[0]["path"].endswith("/chat/completions?api-version=2024-10-21")


def test_a_form_that_the_endpoint_does_not_know_is_replaced_by_the_next_and_remembered(server: Scripted) -> None:
    def only_plain(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        return refusal("response_format is not supported", 500) if "response_format" in body else good()

    server.script = [only_plain]
    one = teacher(server)

    async def twice() -> None:
        ask = Ask(key="k", messages=TURNS, schema=SCHEMA, max_tokens=20, temperature=0.0)
        await one.answer([ask])
        await one.answer([ask])
        await one.close()

    asyncio.run(twice())
    forms = [(seen["body"].get("response_format") or {}).get("type") for seen in server.seen]
    assert forms == ["json_schema", "json_object", "json_object", None, None]
    assert not one.enforces


@pytest.mark.parametrize(
    ("said", "gone", "instead"),
    [
        ("Unsupported value: 'temperature' does not support 0", "temperature", None),
        ("Unsupported parameter: use 'max_completion_tokens' instead", "max_tokens", "max_completion_tokens"),
    ],
)
def test_a_parameter_that_a_model_refuses_is_left_away(
    server: Scripted, said: str, gone: str, instead: str | None
) -> None:
    server.script = [refusal(said), good()]
    answer(teacher(server))
    assert gone not in server.seen[1]["body"]
    assert instead is None or instead in server.seen[1]["body"]


def test_extra_values_override_ours(server: Scripted) -> None:
    answer(teacher(server, extra={"max_completion_tokens": 9, "seed": 3}))
    body = server.seen[0]["body"]
    assert (body["max_completion_tokens"], body["seed"], "max_tokens" in body) == (9, 3, False)


def test_log_probabilities_are_asked_for_and_read(server: Scripted) -> None:
    tops = [{"token": "on", "logprob": -0.1}, {"token": "off", "logprob": -2.5}]
    choice = {
        **COMPLETION["choices"][0],
        "logprobs": {"content": [{"token": "on", "logprob": -0.1, "top_logprobs": tops}]},
    }  # type: ignore[index]
    server.script = [good({**COMPLETION, "choices": [choice]})]
    reply = answer(teacher(server, logprobs=2))
    assert (server.seen[0]["body"]["logprobs"], server.seen[0]["body"]["top_logprobs"]) == (True, 2)
    assert reply.tokens == ("on",)
    assert reply.top_logprobs == ({"on": -0.1, "off": -2.5},)


@pytest.mark.parametrize(
    ("choice", "finish"),
    [
        ({"message": {"content": "x"}, "finish_reason": "length"}, "length"),
        ({"message": {"content": ""}, "finish_reason": "content_filter"}, "refusal"),
        ({"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}, "refusal"),
        ({"message": {"content": "x"}, "finish_reason": "stop"}, "stop"),
    ],
)
def test_why_an_answer_ended_is_kept(server: Scripted, choice: dict[str, Any], finish: str) -> None:
    server.script = [good({"choices": [choice]})]
    assert answer(teacher(server)).finish == finish


@pytest.mark.parametrize(
    ("script", "failure", "said"),
    [
        ((500, {}, b"oops"), Broken, "status 500: oops"),
        ((200, {}, b'{"id": "x", "cho'), Broken, "not complete JSON"),
        ((200, {}, b"[1]"), Broken, "no JSON object"),
        ((200, {}, b'{"choices": []}'), Broken, "no chat completion"),
        ((200, {}, b'{"error": {"message": "overloaded"}}'), Broken, "overloaded"),
        ((0, {}, b""), Broken, "connection broke"),
        ((200, {"X-Length": "900"}, b'{"choices"'), Broken, "within"),
        ((422, {}, b'{"error": {"message": "too long"}}'), Declined, "status 422: too long"),
        ((429, {"Retry-After": "7"}, b""), Busy, "status 429"),
        ((503, {}, b""), Busy, "status 503"),
    ],
)
def test_each_failure_has_its_kind(server: Scripted, script: Answer, failure: type[Failure], said: str) -> None:
    server.script = [script]
    with pytest.raises(failure, match=said) as raised:
        answer(teacher(server, timeout_s=1.0))
    if isinstance(raised.value, Busy):
        assert raised.value.wait_s == (7.0 if "429" in said else None)


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_no_access_or_a_wrong_address_stops_everything_and_the_key_is_not_told(server: Scripted, status: int) -> None:
    server.script = [refusal(f"Incorrect API key provided: {KEY}", status)]
    with pytest.raises(InputError) as raised:
        answer(teacher(server))
    assert KEY not in f"{raised.value} {raised.value.hint} {raised.value!r}"
    assert len(server.seen) == 1


def test_a_hanging_endpoint_is_given_up_after_the_time_asked_for(server: Scripted) -> None:
    def hang(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        time.sleep(1.5)
        return good()

    server.script = [hang]
    with pytest.raises(Broken, match=r"no answer within 0\.3 s") as raised:
        answer(teacher(server, timeout_s=0.3))
    assert raised.value.charged


def test_a_key_comes_from_the_environment_and_its_absence_is_named() -> None:
    settings = LabelTeacher(kind="openai", model="gpt-4o", key_env="NOT_SET_HERE")
    with pytest.raises(InputError, match="NOT_SET_HERE is not set"):
        OpenAI(settings, {})
    with pytest.raises(InputError, match="has no key_env"):
        OpenAI(LabelTeacher(kind="openai", model="gpt-4o"), {})
    assert KEY not in repr(vars(LabelTeacher(kind="openai", model="x", key_env="A_KEY")))


def test_anthropic_gets_the_system_message_apart_and_the_form_as_a_tool(server: Scripted) -> None:
    server.script = [good(MESSAGE)]
    reply = answer(teacher(server, "anthropic"))
    assert (json.loads(reply.text), reply.prompt_tokens, reply.completion_tokens) == ({"answer": "on"}, 12, 6)
    (seen,) = server.seen
    assert (seen["path"], seen["headers"]["x-api-key"]) == ("/v1/messages", KEY)
    assert seen["headers"]["anthropic-version"]
    assert (seen["body"]["system"], seen["body"]["messages"]) == ("Be brief.", [TURNS[1]])
    assert seen["body"]["tool_choice"] == {"type": "tool", "name": "answer"}
    assert seen["body"]["tools"][0]["input_schema"] == SCHEMA


def test_a_claude_that_takes_no_tool_choice_is_asked_for_a_format(server: Scripted) -> None:
    text = {"content": [{"type": "text", "text": '{"answer": "off"}'}], "stop_reason": "end_turn", "usage": {}}
    server.script = [refusal("tool_choice: not supported"), refusal("temperature is deprecated"), good(text)]
    assert json.loads(answer(teacher(server, "anthropic")).text) == {"answer": "off"}
    assert server.seen[-1]["body"]["output_config"]["format"]["schema"] == SCHEMA
    assert "temperature" not in server.seen[-1]["body"]


@pytest.mark.parametrize(("reason", "finish"), [("max_tokens", "length"), ("refusal", "refusal"), ("end_turn", "stop")])
def test_why_a_claude_stopped_is_kept(server: Scripted, reason: str, finish: str) -> None:
    server.script = [good({"content": [{"type": "text", "text": "x"}], "stop_reason": reason})]
    assert answer(teacher(server, "anthropic"), schema=None).finish == finish


def test_an_overloaded_claude_is_busy(server: Scripted) -> None:
    server.script = [(529, {}, b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}')]
    with pytest.raises(Busy, match="status 529: Overloaded"):
        answer(teacher(server, "anthropic"))


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [("3", 3, 3), ("0.5", 0.5, 0.5), ("-4", 0, 0), ("Wed, 21 Oct 2099 07:28:00 GMT", 1e9, 1e10)],
)
def test_retry_after_is_seconds_or_a_date(value: str, least: float, most: float) -> None:
    found = retry_after(value)
    assert found is not None
    assert least <= found <= most


@pytest.mark.parametrize("value", [None, "", "soon", "nan", "inf"])
def test_a_retry_after_that_says_nothing_is_none(value: str | None) -> None:
    assert retry_after(value) is None
