"""Keeps the values of secrets out of what a worker tells: log records, tracebacks, the words of a failure. Pure.

Only the value as it stands is found. What a handler encodes, cuts or sends by itself is its own doing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "***"
_SHORTEST = 4
"""A secret of three characters would blacken half of every log, and is none."""


class Redaction:
    """Hides these values in text."""

    def __init__(self, secrets: Iterable[str | bytes]) -> None:
        texts = {value if isinstance(value, str) else value.decode("utf-8", "replace") for value in secrets}
        # A traceback shows a value as its repr, where quotes and line ends are escaped.
        texts |= {repr(text)[1:-1] for text in texts}
        self._texts = sorted((text for text in texts if len(text) >= _SHORTEST), key=len, reverse=True)

    def text(self, text: str) -> str:
        """`text` without them."""
        for secret in self._texts:
            text = text.replace(secret, HIDDEN)
        return text

    def fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """JSON-ready fields without them."""
        return {name: self._value(value) for name, value in fields.items()} if self._texts else dict(fields)

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return self.fields(value)
        return [self._value(item) for item in value] if isinstance(value, list) else value
