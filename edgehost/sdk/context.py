"""What a handler gets beside its event: one Context per worker, made before `init_context` and kept until the worker ends."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from edgehost.event import Event as WireEvent
from edgehost.event import Origin
from edgehost.sdk.event import Event
from edgehost.sdk.jsonable import JSON, dumps
from edgehost.sdk.link import Link
from edgehost.sdk.logger import Logger
from edgehost.sdk.ownership import Owner
from edgehost.sdk.platform import Platform
from edgehost.sdk.response import Response

if TYPE_CHECKING:
    from edgehost.engine.spec import WorkerSpec


class UndeclaredError(KeyError):
    """A function asked for something by a name its manifest does not declare."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the quotes of its repr


class Declared(dict[str, Any]):
    """What the manifest declares in one of its tables, by name. Reading another name says what to declare."""

    def __init__(self, table: str, items: dict[str, Any]) -> None:
        super().__init__(items)
        self._table = table

    def __missing__(self, name: str) -> Any:
        raise UndeclaredError(undeclared(self._table, name, self))


class Secrets(dict[str, str | bytes]):
    """`context.secrets`: text, or bytes where a secret is no UTF-8. Shows names alone when it is printed or logged."""

    def __missing__(self, name: str) -> Any:
        granted = ", ".join(self) or "none"
        raise UndeclaredError(f"the manifest names no secret {name!r} (it has: {granted}); write secrets = [\"{name}\"]")

    def __repr__(self) -> str:
        return f"<secrets: {', '.join(self) or 'none'}>"


def undeclared(table: str, name: str, declared: Iterable[str]) -> str:
    """The message for a name that table `[table.*]` of the manifest lacks."""
    known = ", ".join(f"[{table}.{other}]" for other in declared) or "none"
    return f"function.toml declares no [{table}.{name}] (declared: {known}); add that table to use {name!r}"


class Context:
    """The `context` of the handler contract. Functions may set attributes of their own on it; `user_data` is the place for them.

    `deadline` is when the event in hand times out, in seconds of `time.monotonic()`. `trigger` is where that event came from.
    """

    Response = Response
    Event = staticmethod(Event.of)

    def __init__(self, spec: WorkerSpec, link: Link) -> None:
        self.function_name = spec.function
        self.function_version = spec.version
        self.worker_id = str(spec.worker_id)
        self.debug = spec.debug
        self.trigger = spec.triggers[0] if spec.triggers else Origin()
        self.deadline = 0.0
        self.user_data = SimpleNamespace()
        self.logger = Logger(spec.log_level, link)
        self.platform = Platform(spec.function, link)
        self.bindings: dict[str, Any] = Declared("bindings", {})
        self.models: dict[str, Any] = Declared("models", {})
        self.secrets = Secrets(link.secrets)
        self._outputs = spec.outputs
        self._link = link
        self._owner = Owner()

    @property
    def trigger_name(self) -> str:
        """The name of the trigger the event in hand came from."""
        return self.trigger.name

    def publish(
        self, output: str, body: Any, *, topic: str = "", headers: dict[str, str] | None = None, content_type: str = ""
    ) -> None:
        """Send `body` to the output `[outputs.OUTPUT]` of this function, now and beside the handler's own answer.

        A str goes as UTF-8, a dict or list as JSON. `headers` go along; `topic` is where an MQTT output without a
        topic of its own sends it.
        Raises UndeclaredError for an output the manifest does not have, and RuntimeError outside the handler's own thread.
        """
        if output not in self._outputs:
            raise UndeclaredError(undeclared("outputs", output, self._outputs))
        self._owner.require("context.publish")
        data, natural_type = _encoded(body)
        now = datetime.now(timezone.utc)
        event = WireEvent(data, content_type or natural_type, "", now, self.trigger, topic, dict(headers or {}))
        self._link.publish(output, event)


def _encoded(body: Any) -> tuple[bytes, str]:
    """Bytes and content type of a message body."""
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body), ""
    if isinstance(body, (dict, list)):
        return dumps(body).encode(), JSON
    return str(body).encode("utf-8", "replace"), "text/plain"
