"""Endpoints as they are: what they are sent, what their refusals change, and what becomes of each way to fail."""

from __future__ import annotations

import asyncio
import email.utils
import json
import re
import socket
import threading
import time
import traceback
from typing import Any

import pytest

from edgedistill.config import LabelTeacher
from edgedistill.errors import EdgeDistillError, InputError
from edgedistill.teachers.answerer import Broken, Busy, Declined, Failure
from edgedistill.teachers.api import Anthropic, OpenAI
from edgedistill.teachers.http import retry_after
from tests.teachers.asks import SCHEMA, answers, ask, reply
from tests.teachers.endpoint import Answer, Cut, Script, Seen, completion, message, refused, serving

KEY = "sk-not-for-anybody-0123456789"
ENVIRONMENT = {"TEACHER_KEY": KEY}
TOOL_USED = {"type": "tool_use", "id": "t-1", "name": "answer", "input": {"answer": "door"}}


def openai(url: str | None, environment: dict[str, str] | None = None, **settings: Any) -> OpenAI:
    named = {"kind": "openai", "model": "big", "base_url": url, **settings}
    return OpenAI(LabelTeacher.model_validate(named), ENVIRONMENT if environment is None else environment)


def anthropic(url: str | None, **settings: Any) -> Anthropic:
    named = {"kind": "anthropic", "model": "claude", "base_url": url, "key_env": "TEACHER_KEY", **settings}
    return Anthropic(LabelTeacher.model_validate(named), ENVIRONMENT)


def failure_of(*script: Script, **settings: Any) -> Exception:
    """What a request to a scripted endpoint raises."""
    with serving(*script) as endpoint, pytest.raises((Failure, EdgeDistillError)) as caught:
        reply(openai(endpoint.url, key_env="TEACHER_KEY", **settings), ask())
    return caught.value


def test_a_request_says_the_model_the_messages_and_the_limits_and_its_answer_is_read() -> None:
    with serving(completion("a door")) as endpoint:
        found = reply(openai(endpoint.url + "/"), ask("what opens?", system="Be short.", temperature=0.5))
    (seen,) = endpoint.seen
    assert (seen.method, seen.path, seen.query) == ("POST", "/v1/chat/completions", {})
    assert seen.headers["Content-Type"] == "application/json"
    assert seen.json == {
        "model": "big",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "what opens?"}],
        "max_tokens": 16,
        "temperature": 0.5,
    }
    assert (found.text, found.finish, found.id) == ("a door", "stop", "c-1")
    assert (found.prompt_tokens, found.completion_tokens) == (11, 3)


def test_a_request_carries_its_name_so_that_an_endpoint_can_tell_it_was_sent_before() -> None:
    with serving(completion()) as endpoint:
        reply(openai(endpoint.url), ask())
    assert endpoint.seen[0].headers["Idempotency-Key"] == ask().key


STRICT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
LOOSE = {"type": "json_object", "schema": SCHEMA}
JSON = {"type": "json_object"}


@pytest.mark.parametrize(
    ("structured", "form", "enforced"),
    [
        ("auto", STRICT, True),
        ("json_schema", STRICT, True),
        ("schema", LOOSE, True),
        ("json_object", JSON, True),
        ("none", None, False),
    ],
)
def test_the_form_of_an_answer_is_asked_for_as_the_settings_say(structured: str, form: Any, enforced: bool) -> None:
    with serving(completion()) as endpoint:
        teacher = openai(endpoint.url, structured=structured)
        reply(teacher, ask(schema=SCHEMA))
        reply(teacher, ask())
    assert [body.get("response_format") for body in endpoint.bodies] == [form, None]
    assert teacher.enforces is enforced


def takes(*forms: Any, status: int = 400) -> Script:
    """An endpoint that knows only these forms."""

    def answer(seen: Seen) -> Answer:
        if seen.json.get("response_format") in forms:
            return completion()
        return refused(status, "Invalid parameter: 'response_format' is not supported with this model")

    return answer


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize(
    ("known", "expected"),
    [(LOOSE, [STRICT, LOOSE]), (JSON, [STRICT, LOOSE, JSON]), (None, [STRICT, LOOSE, JSON, None])],
    ids=["schema", "json_object", "none"],
)
def test_an_endpoint_that_refuses_a_form_is_asked_the_next_way_from_then_on(
    status: int, known: Any, expected: list[Any]
) -> None:
    with serving(takes(known, status=status)) as endpoint:
        teacher = openai(endpoint.url)
        assert reply(teacher, ask(schema=SCHEMA)).text == "yes"
        assert reply(teacher, ask("again", schema=SCHEMA)).text == "yes"
    assert [body.get("response_format") for body in endpoint.bodies] == [*expected, known]
    assert teacher.enforces is (known is not None)


def test_a_form_that_was_asked_for_by_name_is_never_given_up() -> None:
    with serving(takes(None)) as endpoint, pytest.raises(Declined, match="response_format"):
        reply(openai(endpoint.url, structured="json_schema"), ask(schema=SCHEMA))
    assert len(endpoint.seen) == 1


def test_two_requests_that_are_refused_together_give_up_one_form_and_not_two() -> None:
    together = threading.Barrier(2, timeout=10)

    def refuse(seen: Seen) -> Answer:
        together.wait()
        return refused(400, "response_format: json_schema is not supported")

    with serving(refuse, refuse, takes(LOOSE)) as endpoint:
        teacher = openai(endpoint.url)

        async def both() -> None:
            await asyncio.gather(*(teacher.answer([ask(text, schema=SCHEMA)]) for text in ("one", "two")))
            await teacher.close()

        asyncio.run(both())
    assert [body["response_format"] for body in endpoint.bodies] == [STRICT, STRICT, LOOSE, LOOSE]


@pytest.mark.parametrize(
    ("said", "gone", "instead"),
    [
        ("Unsupported value: 'temperature' does not support 0.0 with this model.", "temperature", None),
        (
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            "max_tokens",
            "max_completion_tokens",
        ),
    ],
)
def test_a_parameter_that_a_model_does_not_know_is_left_away_from_then_on(
    said: str, gone: str, instead: str | None
) -> None:
    with serving(refused(400, said), completion()) as endpoint:
        teacher = openai(endpoint.url)
        reply(teacher, ask())
        reply(teacher, ask("again"))
    assert [gone in body for body in endpoint.bodies] == [True, False, False]
    if instead is not None:
        assert [body.get(instead) for body in endpoint.bodies] == [None, 16, 16]


def test_a_model_that_refuses_everything_is_asked_a_few_times_and_then_declined() -> None:
    said = "temperature, max_completion_tokens and response_format are wrong"
    with serving(refused(400, said)) as endpoint, pytest.raises(Declined, match="response_format are wrong"):
        reply(openai(endpoint.url), ask(schema=SCHEMA))
    assert len(endpoint.seen) == 6  # as it is, without two parameters, and the three other forms


def test_the_first_party_endpoint_gets_the_newer_name_of_the_limit() -> None:
    body = openai(None, key_env="TEACHER_KEY").body(ask())
    assert body["max_completion_tokens"] == 16
    assert "max_tokens" not in body


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_what_the_settings_add_comes_before_what_we_say(limit: str) -> None:
    extra = {limit: 99, "temperature": 1.0, "thinking": {"type": "disabled"}}
    body = openai("http://127.0.0.1:1/v1", extra=extra).body(ask())
    assert body == {"model": "big", "messages": list(ask().messages), **extra}


def test_azure_gets_its_own_header_and_the_version_in_the_query() -> None:
    with serving(completion()) as endpoint:
        base = f"{endpoint.url}/openai/deployments/mine"
        query = {"api-version": "2024-10-21"}
        reply(openai(base, key_env="TEACHER_KEY", key_header="api-key", query=query), ask())
    (seen,) = endpoint.seen
    assert (seen.path, seen.query) == ("/v1/openai/deployments/mine/chat/completions", query)
    assert seen.headers["api-key"] == KEY
    assert "Authorization" not in seen.headers


def test_the_key_is_read_from_the_variable_that_the_settings_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOTHER_KEY", f" {KEY}\n")
    settings = {"kind": "openai", "model": "big", "key_env": "ANOTHER_KEY"}
    with serving(completion()) as endpoint:
        reply(OpenAI(LabelTeacher.model_validate({**settings, "base_url": endpoint.url})), ask())
    assert endpoint.seen[0].headers["Authorization"] == f"Bearer {KEY}"


def test_an_endpoint_without_a_key_is_sent_none() -> None:
    with serving(completion()) as endpoint:
        reply(openai(endpoint.url), ask())
    assert "Authorization" not in endpoint.seen[0].headers


@pytest.mark.parametrize("environment", [{"OTHER": "x"}, {"TEACHER_KEY": ""}, {"TEACHER_KEY": " \n"}])
def test_a_variable_that_is_not_set_is_named(environment: dict[str, str]) -> None:
    with pytest.raises(InputError, match="TEACHER_KEY is not set"):
        openai("http://127.0.0.1:1/v1", environment, key_env="TEACHER_KEY")


def test_a_vendor_without_a_key_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InputError, match="has no key_env"):
        openai(None)
    with pytest.raises(InputError, match="has no key_env"):
        anthropic(None, key_env=None)


@pytest.mark.parametrize("padding", [0, 274, 310])
@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
@pytest.mark.parametrize("status", [200, 307, 400, 401, 404, 418, 429, 500])
def test_the_key_is_in_no_error_whatever_the_server_echoes(status: int, as_json: bool, padding: int) -> None:
    said = "x" * padding + f"you sent Bearer {KEY} and that is wrong"
    body = {"error": {"message": said}} if as_json else said.encode()
    error = failure_of((status, {"X-Echo": KEY}, body))
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(getattr(error, "hint", ""))
    for length in (8, len(KEY)):
        assert KEY[:length] not in shown


def test_the_key_is_in_nothing_that_a_teacher_shows_of_itself() -> None:
    for teacher in (openai("http://127.0.0.1:1/v1", key_env="TEACHER_KEY"), anthropic("http://127.0.0.1:1")):
        shown = f"{teacher!r} {teacher} {teacher.http!r} {teacher.settings!r} {teacher.identity} {teacher.name}"
        assert KEY not in shown


@pytest.mark.parametrize(
    ("status", "kind", "match"),
    [
        (400, Declined, "status 400: no, thanks"),
        (413, Declined, "status 413"),
        (418, Declined, "status 418"),
        (401, InputError, r"refuses access \(status 401\): no, thanks"),
        (402, InputError, "status 402"),
        (403, InputError, "status 403"),
        (404, InputError, r"does not answer there \(status 404\)"),
        (302, InputError, "status 302"),
        (408, Broken, "status 408"),
        (409, Broken, "status 409"),
        (500, Broken, "status 500"),
        (502, Broken, "status 502"),
        (504, Broken, "status 504"),
        (599, Broken, "status 599"),
        (429, Busy, "status 429: no, thanks"),
        (503, Busy, "status 503"),
        (529, Busy, "status 529"),
    ],
)
def test_a_status_says_whether_to_ask_again(status: int, kind: type[Exception], match: str) -> None:
    error = failure_of(refused(status, "no,\n  thanks"))
    assert type(error) is kind
    assert re.search(match, str(error))
    assert not getattr(error, "charged", False)


def test_a_key_that_is_refused_says_where_it_came_from() -> None:
    error = failure_of(refused(401, "bad key"))
    assert isinstance(error, InputError)
    assert "TEACHER_KEY" in str(error.hint)


@pytest.mark.parametrize(("header", "wait_s"), [("7", 7.0), ("0.25", 0.25), (None, None), ("soon", None)])
def test_a_busy_endpoint_says_how_long_to_wait_in_seconds(header: str | None, wait_s: float | None) -> None:
    error = failure_of((429, {} if header is None else {"Retry-After": header}, b"slow down"))
    assert isinstance(error, Busy)
    assert error.wait_s == wait_s


def test_a_busy_endpoint_says_how_long_to_wait_as_a_date() -> None:
    when = email.utils.formatdate(time.time() + 60, usegmt=True)
    error = failure_of((429, {"retry-after": when}, b"slow down"))
    assert isinstance(error, Busy)
    assert error.wait_s == pytest.approx(60, abs=5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("12", 12.0),
        ("-1", 0.0),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("Wed, 99 Oct 2099 07:28:00 GMT", None),
        ("in a minute", None),
    ],
)
def test_a_time_to_wait_is_never_negative_and_never_endless(value: str | None, expected: float | None) -> None:
    assert retry_after(value) == expected


def test_a_date_in_the_future_is_turned_into_seconds_from_now() -> None:
    when = email.utils.parsedate_to_datetime("Wed, 21 Oct 2099 07:28:00 GMT").timestamp()
    assert retry_after("Wed, 21 Oct 2099 07:28:00 GMT") == pytest.approx(when - time.time(), abs=5)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"id": "c-1", "choices": [{"mess',
        b"<html>hello</html>",
        b"\xff\xfe\x00",
        b"[" * 200_000,
        [],
        7,
        None,
        {},
        {"object": "list", "data": []},
        {"choices": []},
        {"choices": None},
        {"choices": {}},
        {"choices": [None]},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": "yes"}]},
        {"choices": [{"message": {"content": ["yes"]}}]},
        {"choices": [{"message": {"content": "yes"}}], "usage": [1]},
        {"choices": [{"message": {"content": "yes"}}], "usage": {"prompt_tokens": "many"}},
        b'{"choices": [{"message": {"content": "yes"}}], "usage": {"prompt_tokens": 1e999}}',
        {"choices": [{"message": {"content": "yes"}, "logprobs": {"content": [{"logprob": -1}]}}]},
        {"choices": [{"message": {"content": "yes"}, "logprobs": {"content": [{"token": "a", "logprob": "x"}]}}]},
    ],
    ids=lambda body: str(body)[:20],
)
def test_an_answer_that_cannot_be_read_is_broken_and_may_have_been_paid_for(body: Any) -> None:
    error = failure_of((200, {}, body))
    assert type(error) is Broken
    assert error.charged


def test_an_error_with_the_status_of_success_is_broken_and_was_not_paid_for() -> None:
    error = failure_of((200, {}, {"error": {"message": "no worker is free"}}))
    assert type(error) is Broken
    assert "no worker is free" in str(error)
    assert not error.charged


def test_a_connection_that_is_refused_is_broken_and_names_the_host() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Broken, match=f"cannot connect to 127.0.0.1:{port}") as caught:
        reply(openai(f"http://127.0.0.1:{port}/v1"), ask())
    assert not caught.value.charged


@pytest.mark.parametrize("start", [b"", b'{"id": "c-1", "choices": [{"mess'], ids=["before", "in the middle"])
def test_a_connection_that_breaks_is_broken_and_may_have_been_paid_for(start: bytes) -> None:
    error = failure_of((200, {}, Cut(start)))
    assert type(error) is Broken
    assert "the connection broke" in str(error)
    assert error.charged


def test_an_answer_that_takes_too_long_is_broken_and_may_have_been_paid_for() -> None:
    asked_enough = threading.Event()

    def slow(seen: Seen) -> Answer:
        asked_enough.wait(10)
        return completion()

    started = time.monotonic()
    with serving(slow) as endpoint:
        with pytest.raises(Broken, match=r"no answer within 0\.2 s") as caught:
            reply(openai(endpoint.url, timeout_s=0.2), ask())
        asked_enough.set()
    assert caught.value.charged
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_so_the_key_goes_nowhere_else(status: int) -> None:
    with serving(completion()) as elsewhere:
        error = failure_of((status, {"Location": elsewhere.url + "/chat/completions"}, b""))
        assert type(error) is InputError
        assert elsewhere.seen == []


def test_log_probabilities_are_asked_for_and_read() -> None:
    top = [{"token": "yes", "logprob": -0.1}, {"token": "no", "logprob": -3}]
    content = [
        {"token": "yes", "logprob": -0.1, "top_logprobs": top},
        {"token": ".", "logprob": -0.5, "top_logprobs": []},
    ]
    with serving(completion("yes.", logprobs={"content": content})) as endpoint:
        teacher = openai(endpoint.url, logprobs=2)
        found = reply(teacher, ask())
    assert (endpoint.bodies[0]["logprobs"], endpoint.bodies[0]["top_logprobs"]) == (True, 2)
    assert "top-k log-probabilities" in teacher.gives
    assert found.tokens == ("yes", ".")
    assert found.top_logprobs == ({"yes": -0.1, "no": -3.0}, {".": -0.5})


def test_of_two_tokens_that_are_written_alike_the_likelier_one_counts() -> None:
    top = [{"token": "\ufffd", "logprob": -0.1}, {"token": "no", "logprob": -3}, {"token": "\ufffd", "logprob": -9}]
    content = [{"token": "\ufffd", "logprob": -0.1, "top_logprobs": top}]
    with serving(completion("\ufffd", logprobs={"content": content})) as endpoint:
        found = reply(openai(endpoint.url, logprobs=3), ask())
    assert found.top_logprobs == ({"\ufffd": -0.1, "no": -3.0},)


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": []}])
def test_an_endpoint_that_gives_no_log_probabilities_still_answers(logprobs: Any) -> None:
    with serving(completion("yes", logprobs=logprobs)) as endpoint:
        found = reply(openai(endpoint.url, logprobs=5), ask())
    assert (found.text, found.tokens, found.top_logprobs) == ("yes", (), ())


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "refusal"), ("eos", "stop"), (None, "stop")],
)
def test_why_an_answer_ended_is_kept(reason: Any, finish: str) -> None:
    with serving(completion("yes", finish=reason)) as endpoint:
        assert reply(openai(endpoint.url), ask()).finish == finish


def test_a_refusal_is_no_answer() -> None:
    said = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
    with serving((200, {}, {"choices": [{"message": said, "finish_reason": "stop"}]})) as endpoint:
        found = reply(openai(endpoint.url), ask())
    assert (found.text, found.finish, found.id) == ("I cannot help with that.", "refusal", None)
    assert (found.prompt_tokens, found.completion_tokens) == (0, 0)


def test_anthropic_gets_the_system_message_apart_and_its_own_headers() -> None:
    with serving(message({"type": "text", "text": "a "}, {"type": "text", "text": "door"})) as endpoint:
        found = reply(anthropic(endpoint.url.removesuffix("/v1")), ask("what opens?", system="Be short."))
    (seen,) = endpoint.seen
    assert seen.path == "/v1/messages"
    assert seen.headers["x-api-key"] == KEY
    assert seen.headers["anthropic-version"] == "2023-06-01"
    assert "Authorization" not in seen.headers
    assert seen.json == {
        "model": "claude",
        "messages": [{"role": "user", "content": "what opens?"}],
        "system": "Be short.",
        "max_tokens": 16,
        "temperature": 0.0,
    }
    assert (found.text, found.finish, found.id) == ("a door", "stop", "m-1")
    assert (found.prompt_tokens, found.completion_tokens) == (12, 4)


def test_anthropic_is_asked_for_a_schema_by_a_tool_that_it_must_use() -> None:
    with serving(message({"type": "text", "text": "Let me see."}, TOOL_USED, stop="tool_use")) as endpoint:
        found = reply(anthropic(endpoint.url.removesuffix("/v1")), ask(schema=SCHEMA))
    (body,) = endpoint.bodies
    (tool,) = body["tools"]
    assert tool["input_schema"] == SCHEMA
    assert body["tool_choice"] == {"type": "tool", "name": tool["name"]}
    assert (json.loads(found.text), found.finish) == ({"answer": "door"}, "stop")


def test_a_claude_that_refuses_a_forced_tool_is_asked_for_the_format_from_then_on() -> None:
    said = "tool_choice: forcing a tool is not supported by this model"
    with serving(refused(400, said), message({"type": "text", "text": '{"answer": "door"}'})) as endpoint:
        teacher = anthropic(endpoint.url.removesuffix("/v1"))
        assert json.loads(reply(teacher, ask(schema=SCHEMA)).text) == {"answer": "door"}
        reply(teacher, ask("again", schema=SCHEMA))
    assert ["tool_choice" in body for body in endpoint.bodies] == [True, False, False]
    for body in endpoint.bodies[1:]:
        assert body["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
        assert "tools" not in body


def test_a_claude_that_refuses_a_temperature_is_asked_without_one() -> None:
    said = "temperature: only the default is supported"
    with serving(refused(400, said), message({"type": "text", "text": "yes"})) as endpoint:
        assert reply(anthropic(endpoint.url.removesuffix("/v1")), ask()).text == "yes"
    assert ["temperature" in body for body in endpoint.bodies] == [True, False]


def test_a_claude_that_refuses_for_another_reason_is_asked_once() -> None:
    with serving(refused(400, "prompt is too long")) as endpoint, pytest.raises(Declined, match="too long"):
        reply(anthropic(endpoint.url.removesuffix("/v1")), ask(schema=SCHEMA))
    assert len(endpoint.seen) == 1


def test_a_temperature_above_one_is_more_than_anthropic_takes() -> None:
    assert anthropic("http://127.0.0.1:1").body(ask(temperature=1.7))["temperature"] == 1.0


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("tool_use", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "refusal"),
    ],
)
def test_why_a_message_ended_is_kept(stop: str, finish: str) -> None:
    with serving(message({"type": "text", "text": "yes"}, stop=stop)) as endpoint:
        assert reply(anthropic(endpoint.url.removesuffix("/v1")), ask()).finish == finish


def test_an_overloaded_anthropic_is_busy() -> None:
    overloaded = (529, {"Retry-After": "3"}, {"type": "error", "error": {"message": "Overloaded"}})
    with serving(overloaded) as endpoint, pytest.raises(Busy, match="Overloaded") as caught:
        reply(anthropic(endpoint.url.removesuffix("/v1")), ask())
    assert caught.value.wait_s == 3


@pytest.mark.parametrize(
    "body",
    [
        {"content": None},
        {"content": ["yes"]},
        {"content": [{"type": "text"}]},
        {"content": [{"type": "tool_use"}]},
        {"content": [], "usage": {"input_tokens": "many"}},
        {"choices": []},
    ],
    ids=str,
)
def test_what_is_no_message_is_broken(body: Any) -> None:
    with serving((200, {}, body)) as endpoint, pytest.raises(Broken, match="no message") as caught:
        reply(anthropic(endpoint.url.removesuffix("/v1")), ask())
    assert caught.value.charged


def test_many_requests_share_a_teacher_and_its_connections() -> None:
    with serving(lambda seen: completion(seen.json["messages"][0]["content"])) as endpoint:
        teacher = openai(endpoint.url)

        async def many() -> list[str]:
            found = await asyncio.gather(*(teacher.answer([ask(f"text {n}")]) for n in range(40)))
            await teacher.close()
            return [one.text for (one,) in found if not isinstance(one, Failure)]

        assert asyncio.run(many()) == [f"text {n}" for n in range(40)]


def test_a_teacher_that_was_closed_can_be_asked_again() -> None:
    with serving(completion()) as endpoint:
        teacher = openai(endpoint.url)
        assert [one.text for _ in range(2) for one in answers(teacher, ask()) if not isinstance(one, Failure)] == [
            "yes",
            "yes",
        ]
