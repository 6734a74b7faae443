"""Reads Nuclio's function.yaml, and the same thing inline in a Python file, into the Manifest a function.toml gives.

The keys are those of Nuclio's function-configuration reference. What only a cluster or an image builder could use is warned about
by name and never fatal; what would leave the function without its events or its code (a trigger or runtime edgehost lacks) is an
error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgehost import plugin
from edgehost.errors import ManifestError
from edgehost.manifest.assemble import assemble
from edgehost.manifest.model import Manifest
from edgehost.manifest.nuclio_block import block_text
from edgehost.manifest.nuclio_section import Reading, Section
from edgehost.manifest.nuclio_triggers import read_triggers
from edgehost.manifest.place import label
from edgehost.manifest.problem import Mistake, choice, not_allowed, show
from edgehost.manifest.toml_file import read_text
from edgehost.manifest.yaml_file import read_yaml

_CLUSTER = "not used: it is for Kubernetes or Docker, and edgehost runs functions as processes of this machine"
_IMAGE = "not used: edgehost builds no image; put packages into the bundle's deps folder"
_SCALE = "not used: edgehost runs one instance of a function; numWorkers says how many workers it has"
_UNKNOWN = "not used: edgehost does not know this key"

_CLUSTER_KEYS = (
    *("image", "imageHash", "imagePullPolicy", "imagePullSecrets", "runRegistry", "platform", "volumes", "devices", "hostIPC"),
    *("serviceType", "serviceAccount", "securityContext", "initContainers", "sidecars", "readinessProbe", "livenessProbe"),
    *("affinity", "nodeSelector", "nodeName", "tolerations", "priorityClassName", "preemptionPolicy", "runtimeClassName"),
    *("deploymentStrategy", "customScalingMetricSpecs", "scaleToZero", "waitReadinessTimeoutBeforeFailure"),
    *("disableSensitiveFieldsMasking", "avatar", "alias", "publish", "dealerURI"),
)
_NOT_USED = {
    **dict.fromkeys(_CLUSTER_KEYS, _CLUSTER),
    **dict.fromkeys(("replicas", "minReplicas", "maxReplicas", "targetCPU"), _SCALE),
    "envFrom": "not used: there are no Kubernetes config maps or secrets here; name the variables in env",
    "dataBindings": "not used: edgehost does not read Nuclio's data bindings",
    "runtimeAttributes": "not used: edgehost's runtimes do not read it",
    "streamChunkTimeout": "not used: eventTimeout covers the whole answer",
    "disable": "not used: leave the function's folder out of edgehost.toml instead",
}
_LEVELS = {"debug": "debug", "info": "info", "warn": "warning", "warning": "warning", "error": "error"}
_ORIGINS = {"name": "metadata", "handler": "spec", "runtime": "spec", "triggers": "spec", "env": "spec"}


def read_function_yaml(source: Path, *, name: str | None = None) -> Manifest:
    """The Manifest a function.yaml says. Raises ManifestError: one line with file, key, value and what is allowed."""
    text = read_text(source, label(source), ManifestError)
    return _manifest(read_yaml(text, label(source)), source, name, default_handler=_only_module(source.parent))


def read_inline(source: Path, text: str, *, name: str | None = None) -> Manifest:
    """The Manifest that the `# @nuclio.configure` block of a Python file with this text says."""
    block = read_yaml(block_text(text), label(source))
    if not isinstance(block, Mapping) or "function.yaml" not in block:
        raise ManifestError(f"{label(source)}: the # @nuclio.configure block holds no function.yaml: key")
    return _manifest(block["function.yaml"], source, name, default_handler=f"{source.stem}:handler")


def _manifest(document: Any, source: Path, name: str | None, default_handler: str) -> Manifest:
    reading = Reading(label(source))
    for key, section in _ORIGINS.items():
        reading.know((key,), (section, key))
    try:
        _read(document, reading)
    except Mistake as mistake:
        raise ManifestError(f"{reading.yaml(mistake.path)}: {mistake.text}") from None
    except RecursionError:
        raise ManifestError(f"{label(source)}: is nested too deeply, or holds itself") from None
    if default_handler:
        reading.table.setdefault("handler", default_handler)
    return assemble(reading.table, source.parent, source, reading.place, name=name, warnings=reading.warnings)


def _only_module(folder: Path) -> str:
    """Nuclio's default handler, `handler` of the function's file, when the folder leaves no doubt which file that is."""
    modules = [path.stem for path in folder.glob("*.py")]
    return f"{modules[0]}:handler" if len(modules) == 1 else ""


def _read(document: Any, reading: Reading) -> None:
    if not isinstance(document, Mapping):
        raise not_allowed((), document, "a mapping with metadata and spec")
    top = Section(reading, document, ())
    top.ignore("apiVersion", "kind", "status")
    _read_metadata(top.section("metadata"))
    _read_spec(top.section("spec"))
    top.leave({}, _UNKNOWN)


def _read_metadata(metadata: Section) -> None:
    metadata.move("name", ("name",))
    metadata.leave(dict.fromkeys(("namespace", "labels", "annotations", "resourceVersion"), _CLUSTER), _UNKNOWN)


def _read_spec(spec: Section) -> None:
    spec.move("description", ("description",), lambda text: str(text).strip())
    spec.move("version", ("version",), str)
    spec.move("runtime", ("runtime",), _runtime)
    spec.move("handler", ("handler",))
    spec.move("eventTimeout", ("timeout_s",))
    spec.move("readinessTimeoutSeconds", ("start_timeout_s",))
    _read_env(spec)
    _read_levels(spec)
    _read_resources(spec.section("resources"))
    read_triggers(spec)
    spec.section("build").leave({}, _IMAGE)
    spec.leave(_NOT_USED, _UNKNOWN)


def _runtime(value: Any) -> str:
    """edgehost's runtime for one of Nuclio's: `python:3.11` is `python`, whatever Python the agent has."""
    found = re.fullmatch(r"python(?::[\d.]+)?", str(value))
    if found:
        return "python"
    if isinstance(value, str) and value in plugin.kinds("runtime"):
        return value
    raise ValueError(f"{show(value)} is not a runtime here; edgehost has {choice(plugin.kinds('runtime'))}")


def _read_env(spec: Section) -> None:
    for item, origin in spec.items("env"):
        if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
            raise not_allowed(origin, item, "a mapping with name and value")
        if "valueFrom" in item:
            why = f"not used: there are no Kubernetes secrets here; {item['name']} stays unset"
            spec.reading.warn((*origin, "valueFrom"), why)
            continue
        spec.reading.put(("env", item["name"]), _env_text(item.get("value", "")), origin)


def _env_text(value: Any) -> Any:
    """YAML reads `8080` and `true` as numbers and flags; in an environment all is text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else value


def _read_levels(spec: Section) -> None:
    """The most talkative of the logger sinks becomes the function's level."""
    levels = []
    for item, origin in spec.items("loggerSinks"):
        level = item.get("level", "info") if isinstance(item, Mapping) else item
        if not isinstance(level, str) or level not in _LEVELS:
            raise not_allowed((*origin, "level"), level, choice(_LEVELS))
        levels.append((list(_LEVELS).index(level), _LEVELS[level], origin))
    if levels:
        _, level, origin = min(levels)
        spec.reading.put(("log_level",), level, (*origin, "level"))


def _read_resources(resources: Section) -> None:
    limits = resources.section("limits")
    limits.move("memory", ("limits", "memory_bytes"))
    limits.move("cpu", ("limits", "cpu"), _cores)
    limits.leave({}, _CLUSTER)
    resources.leave({}, _CLUSTER)


def _cores(value: Any) -> Any:
    """Kubernetes' CPU quantity: `500m` is half a core."""
    found = re.fullmatch(r"([\d.]+)(m?)", str(value))
    if not found or isinstance(value, bool):
        raise ValueError(f'{show(value)} is not allowed; use a number of cores, or thousandths as in "500m"')
    return float(found[1]) / (1000 if found[2] else 1)
