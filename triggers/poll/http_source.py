"""Records that a web server gives: what to ask for, and what its answer means. `http_fetch.py` carries one request.

    200           decoded into records
    304           nothing has changed (asked for with the ETag and Last-Modified of the answer before)
    429, 503      read again when Retry-After says, else as any failure
    else          a TriggerError with what to do
Secrets are read anew for each request, so a renewed token needs no restart; none of them is in the URL, in a message or the log.
"""

from __future__ import annotations

import base64
import os
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from edgehost.errors import TriggerError
from edgehost.manifest.model import Positive
from edgehost.polling import TryLaterError
from edgehost.triggers.poll.decoding import Format, records_of
from edgehost.triggers.poll.http_fetch import Answer, Fetch
from edgehost.triggers.poll.source import Around

_MARK = "{cursor}"
_MOST_PATIENCE_S = 3600.0
_ADVICE = {
    401: "; check username and password, or the token",
    403: "; check username and password, or the token",
    404: "; check the URL",
    406: "; the server cannot answer in this format",
}
_ACCEPT = {"json": "application/json", "jsonl": "application/x-ndjson, application/json", "csv": "text/csv", "text": "text/*"}


class HttpSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`http = { … }` of a poll."""

    url: str
    """`{cursor}` in it stands for where the last read ended."""
    format: Format = "json"
    records: str = ""
    """Where in the JSON the records are, as in `data.stations`; empty: at the top. What is not a list there is one record."""
    headers: dict[str, str] = {}
    headers_env: dict[str, str] = {}
    """Header name to the environment variable that holds its value: where a key of an API belongs."""
    username: str = ""
    password_file: str = ""
    password_env: str = ""
    token_file: str = ""
    """A file with a bearer token."""
    token_env: str = ""
    ca_file: str = ""
    """Certificates to trust instead of the system's."""
    body_limit_bytes: Positive = 4 * 1024 * 1024
    """A longer answer is refused, unpacked as well."""

    def __post_init__(self) -> None:
        _check_url(self.url)
        for name, value in self.headers.items():
            if not name.isascii() or not name.replace("-", "").isalnum() or not _one_line(value):
                raise ValueError(f"headers: {name!r} cannot be sent; a name is letters, digits and -, a value one line of ASCII")
        given = [key for key in ("password_file", "password_env", "token_file", "token_env") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"{given[1]}: {given[0]} is given too; keep one of them")
        if bool(self.username) is not bool(self.password_file or self.password_env):
            raise ValueError("username: goes with password_file or password_env; give both or none")
        if self.records and self.format != "json":
            raise ValueError('records: goes with format = "json"; leave it out')

    @property
    def asks_by_cursor(self) -> bool:
        return _MARK in self.url


class HttpSource:
    """See source.py, Source."""

    def __init__(self, settings: HttpSettings, around: Around) -> None:
        self._settings = settings
        self._around = around
        self.url = urlunsplit(urlsplit(settings.url)._replace(query=""))
        ca_file = str(around.folder / settings.ca_file) if settings.ca_file else ""
        self._fetch = Fetch(around.timeout_s, settings.body_limit_bytes, ca_file)
        self._validators: tuple[str, dict[str, str]] = ("", {})
        """A URL, and the headers that ask whether what it gave last is still the same."""

    def read(self, cursor: int | float | str) -> list[Any] | None:
        """The records of one GET; None if the server says that nothing has changed."""
        url = self._settings.url.replace(_MARK, quote(str(cursor), safe=""))
        headers = {"Accept": _ACCEPT[self._settings.format], **self._settings.headers}
        if self._validators[0] == url:
            headers.update(self._validators[1])
        answer = self._fetch.get(url, headers, self._secrets())
        if answer.status == 304:
            return None
        if answer.status != 200:
            raise self._refused(answer)
        records = self._records(answer)
        self._validators = (url, validators(answer.headers))
        return records

    def interrupt(self) -> None:
        self._fetch.interrupt()

    def _records(self, answer: Answer) -> list[Any]:
        try:
            records = records_of(answer.body, self._settings.format, self._settings.records)
        except (ValueError, msgspec.DecodeError) as error:
            kind = answer.headers.get("content-type", "no content type")
            raise TriggerError(f"{self.url} answered {kind} that is not the {self._settings.format} expected: {error}") from error
        if len(records) > self._around.max_records:
            raise TriggerError(f"{self.url} holds {len(records)} records; ask for fewer, or raise max_records")
        return records

    def _refused(self, answer: Answer) -> TriggerError:
        reason = f"{self.url} answered {answer.status}{_ADVICE.get(answer.status, '')}"
        after_s = patience_s(answer.headers) if answer.status in (429, 503) else None
        return TriggerError(reason) if after_s is None else TryLaterError(reason, after_s)

    def _secrets(self) -> dict[str, str]:
        """The headers that must not go to another host."""
        settings = self._settings
        secrets = {name: self._variable("headers_env", variable) for name, variable in settings.headers_env.items()}
        if settings.username:
            pair = f"{settings.username}:{self._secret('password')}".encode()
            secrets["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        elif settings.token_file or settings.token_env:
            secrets["Authorization"] = f"Bearer {self._secret('token')}"
        return secrets

    def _secret(self, what: str) -> str:
        name = getattr(self._settings, f"{what}_file")
        if not name:
            return self._variable(f"{what}_env", getattr(self._settings, f"{what}_env"))
        try:
            return _line(f"http.{what}_file", name, (self._around.folder / Path(name)).read_text())
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise TriggerError(f"http.{what}_file: {name} cannot be read: {reason}") from error

    def _variable(self, key: str, name: str) -> str:
        return _line(f"http.{key}", name, os.environ.get(name, ""))


def validators(headers: dict[str, str]) -> dict[str, str]:
    """The headers that ask whether this answer is still the same. Last-Modified counts in seconds: one from within the second of
    the answer does not tell whether the page was changed once more in it (RFC 9110, 8.8.2.2)."""
    asked = {"If-None-Match": headers["etag"]} if "etag" in headers else {}
    age_s = _between(headers.get("last-modified", ""), headers.get("date", ""))
    return {**asked, "If-Modified-Since": headers["last-modified"]} if age_s is not None and age_s >= 1 else asked


def patience_s(headers: dict[str, str]) -> float | None:
    """How long Retry-After asks to wait, in seconds, an hour at most; None without one. A date is taken against the server's own
    Date: the clock of a device may never have been set."""
    told = headers.get("retry-after", "").strip()
    if told.isdecimal():
        return min(float(told), _MOST_PATIENCE_S)
    after_s = _between(headers.get("date", ""), told)
    return None if after_s is None else min(max(after_s, 0.0), _MOST_PATIENCE_S)


def _between(earlier: str, later: str) -> float | None:
    """Seconds from one HTTP date to another; None if one of them is none."""
    try:
        return (parsedate_to_datetime(later) - parsedate_to_datetime(earlier)).total_seconds()
    except (TypeError, ValueError):
        return None


def _line(key: str, name: str, text: str) -> str:
    text = text.strip()
    if not _one_line(text):  # the text itself is a secret: it is never shown
        raise TriggerError(f"{key}: {name} must hold one line of ASCII")
    return text


def _one_line(text: str) -> bool:
    return text != "" and text.isascii() and text.isprintable()


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url.replace(_MARK, "0"))
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or not _one_line(url) or " " in url:
        raise ValueError(f"url: {url!r} is not a URL; use http://host[:port]/path or https://…, percent-encoded")
    if parts.username is not None or parts.password is not None:
        raise ValueError("url: holds a user name or password; use username and password_file instead")
