"""Plugins made for these tests: the manifest is to be tested with every kind of setting, whatever the real plugins have today."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from msgspec import Meta, Struct

from edgehost import plugin
from edgehost.errors import ManifestError, PluginError, TriggerError
from edgehost.manifest import read_manifest
from edgehost.manifest.model import Manifest, Positive, Seconds


class MqttSettings(Struct, frozen=True, forbid_unknown_fields=True):
    topics: Annotated[tuple[str, ...], Meta(min_length=1)]
    qos: Annotated[int, Meta(ge=0, le=2)] = 1
    broker: str = "default"
    max_in_flight: Positive | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        for topic in self.topics:
            if "#" in topic[:-1]:
                raise ValueError(f"topics: {topic!r} is not a topic filter; '#' may only be the last level")


class Cors(Struct, frozen=True, forbid_unknown_fields=True):
    allow_origins: tuple[str, ...] = ("*",)
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    allow_credentials: bool = False
    max_age_s: Annotated[int, Meta(ge=0)] = 600


class HttpSettings(Struct, frozen=True, forbid_unknown_fields=True):
    routes: tuple[Annotated[str, Meta(pattern="^/")], ...] = ()
    methods: tuple[Literal["GET", "POST"], ...] = ()
    body_limit_bytes: Positive | None = None
    wait_s: Seconds = 10.0
    cors: Cors | None = None


class CronSettings(Struct, frozen=True, forbid_unknown_fields=True):
    schedule: str = ""
    every_s: Seconds | None = None
    body: str = ""
    headers: dict[str, str] = {}


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    level: Literal["debug", "info"] = "info"


class OnnxSettings(Struct, frozen=True, forbid_unknown_fields=True):
    model: Annotated[str, Meta(min_length=1)]
    threads: Annotated[int, Meta(ge=1, lt=65)] = 1
    top_k: Annotated[int, Meta(multiple_of=2)] = 2
    scale: Annotated[float, Meta(gt=0, lt=1)] = 0.5


class FussySettings(Struct, frozen=True):
    port: int = 0

    def __post_init__(self) -> None:
        if self.port:
            raise TriggerError("port 0 is the only one there is")


class PythonRuntime:
    Settings: ClassVar[Any] = None
    needs_handler = True

    @staticmethod
    def check(folder: Path, handler: str, settings: Any) -> None:
        if ":" not in handler:
            raise ManifestError(f'handler: "{handler}" has no colon; write module:function')


class OnnxRuntime:
    Settings: ClassVar[Any] = OnnxSettings
    needs_handler = False

    @staticmethod
    def check(folder: Path, handler: str, settings: OnnxSettings) -> None:
        if not (folder / settings.model).exists():
            raise ManifestError(f"function.toml: [onnx].model: there is no {settings.model}")


def _with(settings: type[Struct]) -> type[Any]:
    return type("Plugin", (), {"Settings": settings})


PLUGINS: dict[str, dict[str, Any]] = {
    "trigger": {
        "mqtt": _with(MqttSettings),
        "http": _with(HttpSettings),
        "cron": _with(CronSettings),
        "fussy": _with(FussySettings),
    },
    "output": {"mqtt": _with(MqttSettings), "log": _with(LogSettings)},
    "runtime": {"python": PythonRuntime, "onnx": OnnxRuntime},
}


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(kind: str, name: str) -> Any:
        if name not in PLUGINS[kind]:
            raise PluginError(f"{name!r} is not a {kind}")
        return PLUGINS[kind][name]

    monkeypatch.setattr(plugin, "load", load)
    monkeypatch.setattr(plugin, "kinds", lambda kind: sorted(PLUGINS[kind]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder `thermostat`."""
    folder = tmp_path / "thermostat"
    folder.mkdir()
    return folder


@pytest.fixture
def read(plugins: None, folder: Path) -> Callable[[str], Manifest]:
    """Reads the given text as the function.toml of the folder `thermostat`."""

    def read(text: str) -> Manifest:
        (folder / "function.toml").write_text(text)
        return read_manifest(folder)

    return read


@pytest.fixture
def read_yaml(plugins: None, folder: Path) -> Callable[[str], Manifest]:
    """Reads the given text as the function.yaml of the folder `thermostat`."""

    def read(text: str) -> Manifest:
        (folder / "function.yaml").write_text(text)
        return read_manifest(folder)

    return read
