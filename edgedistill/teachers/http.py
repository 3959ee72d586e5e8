"""One endpoint over HTTP: its key, its connections, and what its statuses mean.

Plain HTTP through aiohttp rather than the vendors' libraries: those retry on their own, unseen by the journal, and cost
about a millisecond a request, which is all the time there is at a thousand rows a second.
"""

from __future__ import annotations

import email.utils
import json
import math
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from edgedistill.config import LabelTeacher
from edgedistill.errors import InputError, MissingExtra
from edgedistill.teachers.answerer import Broken, Busy, Declined

if TYPE_CHECKING:
    import aiohttp

BUSY = (429, 503, 529)
AGAIN = (408, 409, 425, 500, 502, 504, 520, 522, 524)
NEVER = (401, 402, 403)
"""A wrong key, no money, no access: no request can work."""
SAID = 300
"""How much of an error's text is kept."""
CONNECT_S = 30.0


class Http:
    """One endpoint over HTTP: its key, its connections, and what its statuses mean."""

    def __init__(self, url: str, headers: Mapping[str, str], settings: LabelTeacher, key: str) -> None:
        self.url = url
        self._headers = dict(headers)
        self._settings = settings
        self._key = key
        self._session: aiohttp.ClientSession | None = None
        _aiohttp()  # what is missing is said before anything is asked

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            aiohttp = _aiohttp()
            total = self._settings.timeout_s
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                timeout=aiohttp.ClientTimeout(total=total, sock_connect=min(CONNECT_S, total)),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def post(self, body: Mapping[str, Any], *, key: str) -> dict[str, Any]:
        """Sends a JSON body and gives back the JSON object that answers it.

        Args:
            key: sent as Idempotency-Key; an endpoint that knows it charges a repeated request once.

        Raises:
            Failure: see `answerer`.
            InputError: the key, the model or the address is wrong.
        """
        status, headers, raw = await self.call("POST", self.url, json.dumps(body, default=dict).encode(), key=key)
        if status != 200:
            self.fail(status, headers, raw)
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise Broken(f"the answer is not complete JSON ({len(raw)} bytes)", charged=True) from error
        if not isinstance(found, dict):
            raise Broken("the answer is no JSON object", charged=True)
        if "error" in found and found["error"] and "choices" not in found and "content" not in found:
            raise Broken(self.scrubbed(f"the answer is an error: {found['error']}"))
        return found

    async def call(
        self, method: str, url: str, body: bytes | aiohttp.FormData | None = None, *, key: str = ""
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request: status, headers and body. Raises Broken when the connection fails."""
        aiohttp = _aiohttp()
        headers = {"Idempotency-Key": key} if key else {}
        if isinstance(body, bytes):
            headers["Content-Type"] = "application/json"
        try:
            async with self._opened().request(
                method, url, data=body, headers=headers, params=self._settings.query or None, allow_redirects=False
            ) as response:
                return response.status, response.headers, await response.read()
        except aiohttp.ClientConnectorError as error:
            raise Broken(self.scrubbed(f"cannot connect to {_host(url)}: {error.os_error}")) from None
        except TimeoutError:
            raise Broken(f"no answer within {self._settings.timeout_s:g} s", charged=True) from None
        except (aiohttp.ClientError, OSError) as error:
            said = self.scrubbed(f"the connection broke: {type(error).__name__}: {error}")
            raise Broken(said, charged=True) from None

    def fail(self, status: int, headers: Mapping[str, str], raw: bytes) -> NoReturn:
        """Raises what a status means. See `answerer` for the kinds."""
        said = self.scrubbed(_message(raw))
        if status in BUSY:
            raise Busy(f"status {status}: {said}", wait_s=retry_after(headers.get("Retry-After")))
        if status in AGAIN or status >= 500:
            raise Broken(f"status {status}: {said}")
        if status in NEVER:
            raise InputError(
                f"{_host(self.url)} refuses access (status {status}): {said}",
                hint=f"check the key in the environment variable {self._settings.key_env}"
                if self._settings.key_env
                else "name the environment variable with the key as key_env",
            )
        if status == 404 or 300 <= status < 400:
            raise InputError(
                f"{self.url} does not answer there (status {status}): {said}", hint="check base_url and model"
            )
        raise Declined(f"status {status}: {said}")

    def scrubbed(self, text: str) -> str:
        """The text without the key, should a server or a library have put it there."""
        return (text.replace(self._key, "[key]") if self._key else text)[:SAID]

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks to wait, from a number or a date; None when it says nothing usable."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def key_of(settings: LabelTeacher, environment: Mapping[str, str] | None, *, needed: bool) -> str:
    """The key of a teacher, from the environment variable that it names; empty when it names none.

    Raises:
        InputError: the variable is not set, or none is named where one is needed.
    """
    names = os.environ if environment is None else environment
    if settings.key_env is None:
        if needed:
            raise InputError(
                f"teacher {settings.model!r} has no key_env",
                hint="name the environment variable that holds the key, such as OPENAI_API_KEY",
            )
        return ""
    key = names.get(settings.key_env, "").strip()
    if not key:
        raise InputError(
            f"the environment variable {settings.key_env} is not set", hint=f"export {settings.key_env}=… and run again"
        )
    return key


def _message(raw: bytes) -> str:
    """What an error body says, on one line."""
    try:
        found = json.loads(raw)
        error = found.get("error", found) if isinstance(found, dict) else found
        said = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, RecursionError):
        said = raw.decode("utf-8", "replace")  # whole: a cut before the key is looked for could leave its beginning
    return " ".join(str(said).split())


def _aiohttp() -> Any:
    try:
        import aiohttp
    except ImportError as error:
        raise MissingExtra("aiohttp", extra="label") from error
    return aiohttp


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
