"""The shape of the house, held by its import graph: imports point down, plugins are found by entry point, heavy packages wait.

Reads the sources with `ast` and imports nothing, but for one test that asks a real interpreter what an agent loads at start.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "edgehost"

GROUND_FLOOR = (
    *("event", "manifest", "config", "config_toml", "schedule", "errors", "log", "backoff", "mqtt", "http", "plugin"),
    *("intake", "reconnect", "secrets", "state", "polling", "framing", "tty", "gpio", "profile", "children", "inotify", "feed"),
    *("trust", "parcel", "letter", "numbering", "mounts"),
)
FLOORS = {
    **dict.fromkeys((f"edgehost.{name}" for name in GROUND_FLOOR), 0),
    "edgehost.sdk": 1,
    "edgehost.control": 1,
    "edgehost.watch": 1,
    "edgehost.options": 1,
    "edgehost.embedded_broker": 1,
    "edgehost.service": 1,
    "edgehost.engine": 2,
    "edgehost.batch": 3,
    "edgehost.delivery": 3,
    "edgehost.hosts": 4,
    "edgehost.version": 5,
    "edgehost.ingress": 6,
    "edgehost.deployment": 7,
    "edgehost.reload": 7,
    "edgehost.roster": 8,
    "edgehost.agent": 9,
    "edgehost.cli": 10,
}
PLUGINS = ("edgehost.triggers", "edgehost.runtimes", "edgehost.outputs")
FOR_PEOPLE = {"typer", "rich", "click"}
HEAVY = {
    *("numpy", "onnxruntime", "uvicorn", "starlette", "httptools", "uvloop", "yaml", "iotcore", "serial", "psutil"),
    *("gpiod", "pymodbus", "py_landlock"),
}
EXCUSED = {"edgehost.triggers.http": {"uvicorn", "starlette"}, "edgehost.triggers.modbus": {"pymodbus"}}
"""A trigger is loaded only when a manifest names it, so it may import what it alone is made of at the top of its module."""


@dataclass(frozen=True)
class Import:
    """One import statement. `when` is `load` (runs with the module), `call` (inside a function) or `typing` (never runs)."""

    module: str
    target: str
    line: int
    when: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def module_files() -> Iterator[tuple[str, Path]]:
    """Every module of the package with its dotted name, linked folders included."""
    for folder, subfolders, names in os.walk(PACKAGE, followlinks=True):
        subfolders[:] = [name for name in subfolders if name != "__pycache__"]
        for name in sorted(names):
            if name.endswith(".py"):
                path = Path(folder, name)
                parts = path.relative_to(ROOT).with_suffix("").parts
                yield ".".join(part for part in parts if part != "__init__"), path


def imports_of(module: str, source: str, is_package: bool = False) -> list[Import]:
    found: list[Import] = []

    def walk(node: ast.AST, when: str) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(module, alias.name, node.lineno, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.extend(Import(module, target, node.lineno, when) for target in targets(node))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                walk(child, "typing")
            for child in node.orelse:
                walk(child, when)
        else:
            inner = "call" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and when == "load" else when
            for child in ast.iter_child_nodes(node):
                walk(child, inner)

    def targets(node: ast.ImportFrom) -> list[str]:
        base = node.module or ""
        if node.level:
            package = module.split(".") if is_package else module.split(".")[:-1]
            kept = package[: len(package) - node.level + 1]
            base = ".".join([*kept, base] if base else kept)
        # The longer form covers both `from edgehost import agent`, a module, and `from edgehost.event import Event`, a name.
        return [f"{base}.{alias.name}" for alias in node.names]

    walk(ast.parse(source), "load")
    return found


def belongs(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def floor(name: str) -> int | None:
    return next((level for package, level in FLOORS.items() if belongs(name, package)), None)


def plugin_modules() -> set[str]:
    """What the entry points name: `edgehost.triggers.mqtt` and so on."""
    points = [point for group in PLUGINS for point in importlib.metadata.entry_points(group=group)]
    return {point.value.partition(":")[0] for point in points if belongs(point.value, "edgehost")}


@pytest.fixture(scope="module")
def graph() -> list[Import]:
    every = [
        found
        for module, path in module_files()
        for found in imports_of(module, path.read_text(), path.name == "__init__.py")
        if found.when != "typing"
    ]
    assert len({found.module for found in every}) > 5, "the walk over the package found next to nothing"
    return every


def test_every_module_has_a_floor() -> None:
    homeless = [
        module
        for module, _ in module_files()
        if module != "edgehost" and floor(module) is None and not belongs(module, *PLUGINS, "edgehost.device_profiles")
    ]
    assert homeless == [], "give each new part its place in FLOORS"


def test_imports_point_down(graph: list[Import]) -> None:
    upward = []
    for found in graph:
        here, there = floor(found.module), floor(found.target)
        if here is not None and there is not None and there > here:
            upward.append(str(found))
    assert upward == []


def test_nothing_imports_a_plugin_statically(graph: list[Import]) -> None:
    assert [str(found) for found in graph if belongs(found.target, *PLUGINS) and not belongs(found.module, *PLUGINS)] == []


def test_plugins_never_import_each_other(graph: list[Import]) -> None:
    """A plugin is the module or package an entry point names; modules that no entry point names are free to serve it."""
    crossing = [
        str(found)
        for plugin in plugin_modules()
        for found in graph
        if belongs(found.module, *PLUGINS) and belongs(found.target, plugin) and not belongs(found.module, plugin)
    ]
    assert crossing == []


def test_plugins_know_neither_the_agent_nor_its_command_line(graph: list[Import]) -> None:
    above = ("edgehost.agent", "edgehost.deployment", "edgehost.control", "edgehost.cli")
    assert [str(found) for found in graph if belongs(found.module, *PLUGINS) and belongs(found.target, *above)] == []


def test_what_functions_see_is_loaded_in_workers_only(graph: list[Import]) -> None:
    """Of what an agent loads, only a runtime names it, and inside `load`: that runs in the worker."""
    agent_side = loaded_with(graph, "edgehost.agent", *plugin_modules())
    astray = [
        str(found)
        for found in graph
        if belongs(found.target, "edgehost.sdk") and found.module in agent_side
        if found.when == "load" or not belongs(found.module, "edgehost.runtimes")
    ]
    assert astray == []


def test_what_draws_for_people_stays_in_the_command_line(graph: list[Import]) -> None:
    astray = [
        str(found) for found in graph if found.target.split(".")[0] in FOR_PEOPLE and not belongs(found.module, "edgehost.cli")
    ]
    assert astray == []


def test_heavy_packages_are_imported_only_when_needed(graph: list[Import]) -> None:
    """Follows what the agent and the plugins load at the top of their modules; what a worker loads later may be heavy."""
    loaded = loaded_with(graph, "edgehost.agent", *plugin_modules())
    early = [
        str(found)
        for found in graph
        if found.when == "load" and found.module in loaded and found.target.split(".")[0] in HEAVY
        if not any(belongs(found.module, plugin) and found.target.split(".")[0] in own for plugin, own in EXCUSED.items())
    ]
    assert early == []


def loaded_with(graph: list[Import], *roots: str) -> set[str]:
    """The modules of the package that are loaded when `roots` are: by their own imports at the top, and as their parents."""
    modules = {module for module, _ in module_files()}
    loaded: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in modules or name in loaded:
            continue
        loaded.add(name)
        targets = [found.target for found in graph if found.module == name and found.when == "load"]
        for target in (*targets, name):
            parts = target.split(".")
            waiting.extend(".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return loaded


@pytest.mark.parametrize(
    ("source", "is_package", "expected"),
    [
        ("import a.b", False, [("a.b", "load")]),
        ("from a import b, c", False, [("a.b", "load"), ("a.c", "load")]),
        ("from .near import x", False, [("edgehost.part.near.x", "load")]),
        ("from .near import x", True, [("edgehost.part.module.near.x", "load")]),
        ("from ..far import x", False, [("edgehost.far.x", "load")]),
        ("from . import near", False, [("edgehost.part.near", "load")]),
        ("def f():\n    import a", False, [("a", "call")]),
        ("class C:\n    import a", False, [("a", "load")]),
        ("try:\n    import a\nexcept ImportError:\n    import b", False, [("a", "load"), ("b", "load")]),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", False, [("a", "typing"), ("b", "load")]),
        ("if typing.TYPE_CHECKING:\n    def f():\n        import a", False, [("a", "typing")]),
    ],
)
def test_the_reader_sees_each_form_of_import(source: str, is_package: bool, expected: list[tuple[str, str]]) -> None:
    assert [(found.target, found.when) for found in imports_of("edgehost.part.module", source, is_package)] == expected


def test_an_agent_at_start_has_loaded_no_heavy_package() -> None:
    code = "import edgehost.agent, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert loaded & (FOR_PEOPLE | HEAVY | {"sqlite3"}) == set()
    plugins = [name for name in json.loads(done.stdout) if belongs(name, *PLUGINS, "edgehost.sdk", "edgehost.cli")]
    assert plugins == []
