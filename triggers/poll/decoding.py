"""What an HTTP answer holds, as records: a JSON value, JSON lines, CSV with a head line, or one text. Pure."""

from __future__ import annotations

import csv
import io
from typing import Any, Literal

import msgspec

from edgehost.polling import pick

Format = Literal["json", "jsonl", "csv", "text"]


def records_of(body: bytes, form: Format, path: str) -> list[Any]:
    """The records of one answer. `path` leads to them inside JSON. Raises ValueError for what is not in this form."""
    if form == "json":
        return _json(body, path)
    text = body.decode("utf-8-sig")
    if form == "jsonl":
        return [_line(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return _csv(text) if form == "csv" else [text]


def _json(body: bytes, path: str) -> list[Any]:
    value = msgspec.json.decode(body)
    if path:
        value = pick(value, path)
    return value if isinstance(value, list) else [value]


def _line(number: int, line: str) -> Any:
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise ValueError(f"line {number} is not JSON: {error}") from None


def _csv(text: str) -> list[Any]:
    """Rows as objects of the head's names. All values are text: CSV knows no other."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not CSV: {error}") from None
    for row in rows:
        if None in row or None in row.values():
            raise ValueError(f"a row begins with {next(iter(row.values()))!r} and has not as many values as the head line")
    return rows
