"""From the tables of a manifest, whatever file they came from, to a Manifest: plugins looked up, their settings converted,
cross checks made. Knows nothing of file formats: the readers hand over tables in function.toml's shape.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from edgehost import plugin
from edgehost.errors import ManifestError, PluginError
from edgehost.manifest.checks import check
from edgehost.manifest.conversion import to_fields, to_struct
from edgehost.manifest.model import Manifest, OutputSpec, TriggerSpec
from edgehost.manifest.place import Place
from edgehost.manifest.problem import Mistake, did_you_mean, not_allowed, show

_NOT_KEYS = ("folder", "source", "triggers", "outputs", "options", "warnings")
"""Fields of Manifest that no key of the same name says as it stands."""
_SPEC_FIELDS = ("name", "kind", "settings")
_TRIGGER_KEYS = ("batch", "durable", "dedupe")
_OUTPUT_KEYS = ("on", "triggers", "store")
"""Keys of `[triggers.NAME]` and `[outputs.NAME]` that are edgehost's own; all others are the plugin's."""

_OWN_FILE = re.compile(r"^function\.(?:toml|ya?ml):? (?:spec\.)?")
"""A runtime does not know which file it came from: with a bare main.py or an inline block it guesses wrong."""


def assemble(
    table: Mapping[str, Any], folder: Path, source: Path, place: Place, *, name: str | None = None, warnings: Collection[str] = ()
) -> Manifest:
    """The Manifest of a bundle in `folder`. `name` overrides the table's; without either it is the folder's name.

    Raises ManifestError with one line that starts with the place of the mistake, as `place` names it.
    """
    try:
        return _assemble(dict(table), folder, source, name, tuple(warnings))
    except Mistake as mistake:
        raise ManifestError(f"{place(mistake.path)}: {mistake.text}") from None
    except ManifestError as error:
        raise ManifestError(_placed(str(error), place)) from None
    except RecursionError:
        raise ManifestError(f"{place(())}: is nested too deeply") from None


def _assemble(table: dict[str, Any], folder: Path, source: Path, name: str | None, warnings: tuple[str, ...]) -> Manifest:
    table["name"] = name or table.get("name", default_name(folder))
    runtime_name = _text(table.get("runtime", "python"), ("runtime",))
    runtime = _load("runtime", runtime_name, ("runtime",))
    triggers = tuple(_trigger(*pair) for pair in _tables(table.pop("triggers", {}), "triggers"))
    outputs = tuple(_output(*pair) for pair in _tables(table.pop("outputs", {}), "outputs"))
    options = _options(table, runtime_name, runtime.Settings)
    fields = to_fields(table, Manifest, without=_NOT_KEYS, beside=("triggers", "outputs"))
    manifest = Manifest(
        **fields, folder=folder, source=source, triggers=triggers, outputs=outputs, options=options, warnings=warnings
    )
    check(manifest, runtime.needs_handler)
    try:
        runtime.check(folder, manifest.handler, options)
    except (OSError, ValueError) as error:  # a path with a NUL in it, or longer than the system takes
        raise Mistake((), f"the runtime {runtime_name} cannot use it: {error}") from None
    return manifest


def _placed(text: str, place: Place) -> str:
    """What a runtime's check says, which begins with a key ("handler: …", "[onnx].model: …"), with the file in front of it."""
    text = _OWN_FILE.sub("", text)
    if text.startswith("handler:"):
        return place(("handler",)) + text.removeprefix("handler")
    return f"{place(())} {text}" if text.startswith("[") else f"{place(())}: {text}"


def default_name(folder: Path) -> str:
    """A function's name from its folder's: `My Sensor` becomes `my-sensor`."""
    return re.sub(r"[^a-z0-9_]+", "-", folder.resolve().name.lower()).strip("-_")[:63].rstrip("-_") or "function"


def _trigger(name: str, table: dict[str, Any]) -> TriggerSpec:
    path = ("triggers", name)
    kind = _kind("trigger", table, path)
    own = to_fields(_take(table, _TRIGGER_KEYS), TriggerSpec, without=_SPEC_FIELDS, path=path)
    settings = _settings("trigger", kind, table, path, _TRIGGER_KEYS)
    spec = TriggerSpec(name=name, kind=kind, settings=settings, **own)
    _check_dedupe(spec, path)
    return spec


def _check_dedupe(spec: TriggerSpec, path: tuple[str, ...]) -> None:
    if spec.dedupe is None:
        return
    if spec.batch is not None:
        raise Mistake(
            (*path, "dedupe"), "does not go with batch: what a batch publishes is of no single event; remove one"
        )
    if spec.dedupe.by == "id" and not hasattr(_load("trigger", spec.kind, (*path, "kind")), "source_id"):
        text = f"the events of {show(spec.kind)} bear no id of their source, only numbers that begin anew with the agent"
        raise Mistake((*path, "dedupe", "by"), f'{text}; use by = "body"')


def _output(name: str, table: dict[str, Any]) -> OutputSpec:
    path = ("outputs", name)
    kind = _kind("output", table, path)
    own = to_fields(_take(table, _OUTPUT_KEYS), OutputSpec, without=_SPEC_FIELDS, path=path)
    settings = _settings("output", kind, table, path, _OUTPUT_KEYS)
    return OutputSpec(name=name, kind=kind, settings=settings, **own)


def _settings(what: plugin.Kind, kind: str, table: dict[str, Any], path: tuple[str, ...], own: tuple[str, ...]) -> Struct:
    settings: type[Struct] = _load(what, kind, (*path, "kind")).Settings
    return to_struct(table, settings, path, beside=("kind", *own))


def _take(table: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: table.pop(key) for key in keys if key in table}


def _options(table: dict[str, Any], runtime: str, settings: type[Struct] | None) -> Struct | None:
    """The runtime's own table, taken out of the manifest's."""
    if settings is not None:
        return to_struct(_as_table(table.pop(runtime, {}), (runtime,)), settings, (runtime,))
    other = next((key for key in table if isinstance(table[key], dict) and key in plugin.kinds("runtime")), None)
    if other:
        advice = "remove this table" if other == runtime else f"write runtime = {show(other)}, or remove this table"
        raise Mistake((other, ""), f"the runtime is {show(runtime)}, which has no table; {advice}")
    return None


def _kind(what: plugin.Kind, table: dict[str, Any], path: tuple[str, ...]) -> str:
    if "kind" not in table:
        raise Mistake((*path, "kind"), f"missing; write the kind of {what}: {', '.join(plugin.kinds(what))}")
    return _text(table.pop("kind"), (*path, "kind"))


def _load(what: plugin.Kind, name: str, path: tuple[str, ...]) -> Any:
    try:
        return plugin.load(what, name)
    except PluginError as error:
        known = plugin.kinds(what)
        text = str(error) if name in known else f"there is no {what} {show(name)}; {did_you_mean(name, known)}"
        raise Mistake(path, text) from None


def _tables(tables: Any, key: str) -> list[tuple[str, dict[str, Any]]]:
    """The named tables under `triggers` or `outputs`, each a copy to take keys out of."""
    named = _as_table(tables, (key,), f"tables [{key}.NAME]")
    return [(str(name), _as_table(table, (key, str(name)))) for name, table in named.items()]


def _as_table(value: Any, path: tuple[str, ...], form: str = "a table") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise not_allowed(path, value, form)
    return dict(value)


def _text(value: Any, path: tuple[str, ...]) -> str:
    if not isinstance(value, str) or not value:
        raise not_allowed(path, value, "text")
    return value
