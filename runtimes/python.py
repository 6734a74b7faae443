"""The `python` runtime: a function is a module of the bundle with `handler(context, event)` and, maybe, `init_context(context)`.

The agent imports this module too, for `check`; `edgehost.sdk`, which is the worker's, is therefore imported only by `load`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from edgehost.errors import ManifestError, StartError

if TYPE_CHECKING:
    from msgspec import Struct

    from edgehost.engine.spec import WorkerSpec
    from edgehost.sdk.context import Context
    from edgehost.sdk.link import Link
    from edgehost.sdk.program import Program

_SUFFIXES = tuple(importlib.machinery.all_suffixes())
DEPS = "deps"
"""The folder of a bundle for the packages it brings (`pip install --target deps ...`)."""


class PythonRuntime:
    """Loads `module[.sub]:function` from the bundle's root, its `deps/` or the interpreter's own packages, in this order."""

    Settings: ClassVar[type[Struct] | None] = None
    needs_handler: ClassVar[bool] = True
    # Exactly what `load` needs. Anything more is paid by every agent for the functions that use it: urllib.request is 2.5 MiB.
    preload: ClassVar[tuple[str, ...]] = ("asyncio", "json", "logging", "edgehost.sdk.context", "edgehost.sdk.program")

    @staticmethod
    def check(folder: Path, handler: str, settings: Any) -> None:
        """Raise ManifestError if `handler` is not `module:function`, or if no such module is in sight. Runs none of its code."""
        module, _ = split_handler(folder, handler)
        if find_module(folder, "edgehost"):
            raise ManifestError(f"{folder}: holds a module named `edgehost`, which is the agent's own package; rename yours")
        top = module.partition(".")[0]
        if find_module(folder, module) or find_module(folder / DEPS, module):
            return
        if find_module(folder, top) or importlib.util.find_spec(top) is None:
            raise ManifestError(f"{manifest_key(folder)}: {no_such_module(folder, module)}")

    @staticmethod
    def devices(settings: Any, providers: Sequence[str]) -> Sequence[str]:
        return ()

    @staticmethod
    def load(spec: WorkerSpec, link: Link) -> Program:
        """Import the handler and run `init_context`. Raises StartError with the user's own file and line."""
        from edgehost.sdk.context import Context
        from edgehost.sdk.program import Program

        folder = Path(spec.folder).resolve()  # tracebacks name files by it
        put_on_path(folder)
        handler, module = import_handler(folder, spec.handler)
        context = Context(spec, link)
        init = partial(initialise, folder, getattr(module, "init_context", None), context)
        asynchronous = spec.on_loop or is_async(handler)
        if not asynchronous:
            _finish(init())
        return Program(
            handle=partial(handler, context),
            context=context,
            asynchronous=asynchronous,
            on_start=partial(_on_loop, init) if asynchronous else _nothing,
            on_drain=context.platform.drain,
            on_terminate=context.platform.terminate,
        )


def split_handler(folder: Path, handler: str) -> tuple[str, str]:
    """Module and function of `module[.sub]:function`; ManifestError for anything else."""
    module, colon, name = handler.partition(":")
    if not colon:
        raise ManifestError(f"{manifest_key(folder)}: {handler!r} has no colon; write module:function, such as main:handler")
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ManifestError(f"{manifest_key(folder)}: {handler!r} is not module[.sub]:function; write it such as main:handler")
    return module, name


def manifest_key(folder: Path) -> str:
    """Where a person finds the handler: the manifest's file and key."""
    if (folder / "function.toml").exists():
        return "function.toml handler"
    yaml = next((name for name in ("function.yaml", "function.yml") if (folder / name).exists()), None)
    return f"{yaml} spec.handler" if yaml else "function.toml handler"


def find_module(folder: Path, module: str) -> Path | None:
    """The file (or package folder) of a dotted module name under `folder`, None if it has none."""
    place = folder.joinpath(*module.split("."))
    candidates = (place.with_name(place.name + suffix) for suffix in _SUFFIXES)
    if (place / "__init__.py").is_file():
        return place
    return next((file for file in candidates if file.is_file()), place if place.is_dir() and any(place.glob("*.py")) else None)


def no_such_module(folder: Path, module: str) -> str:
    """The message for a handler whose module is nowhere."""
    here = ", ".join(sorted(file.name for file in folder.glob("*.py"))[:8]) or "no Python file"
    return f"there is no module {module!r} in {folder} (it holds {here}) or its {DEPS}/"


def put_on_path(folder: Path) -> None:
    """Put the bundle's root first on `sys.path`, and its deps second."""
    places = [str(folder), str(folder / DEPS)]
    sys.path[:] = places + [entry for entry in sys.path if entry not in places]
    for place in places:
        sys.path_importer_cache.pop(place, None)  # the zygote may have looked there before the bundle was complete


def import_handler(folder: Path, handler: str) -> tuple[Callable[..., Any], ModuleType]:
    """The handler function and its module."""
    module_name, name = split_handler(folder, handler)
    require_not_taken(folder, module_name)
    key = manifest_key(folder)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise StartError(f"{key}: {no_such_module(folder, module_name)}") from error
        raise StartError(f"{key}: cannot import {module_name!r}: {blame(error, folder)}{advice(error, folder)}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise StartError(f"{key}: {no_such_function(module, name)}")
    return found, module


def no_such_function(module: ModuleType, name: str) -> str:
    """The message for a module without its handler."""
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    functions = [value.__name__ for value in own if inspect.isfunction(value)]
    what = f"has {name!r}, but it is no function:" if hasattr(module, name) else f"has no function {name!r};"
    return f"module {module.__name__!r} {what} its functions are {', '.join(functions) or 'none'}"


def require_not_taken(folder: Path, module: str) -> None:
    """Refuse a module of the bundle that Python would not even look for: one of that name is loaded already."""
    top = module.partition(".")[0]
    loaded = sys.modules.get(top)
    if loaded is None or not find_module(folder, top):
        return
    origin = getattr(loaded, "__file__", None)
    if origin is None or folder not in Path(origin).resolve().parents:
        raise StartError(
            f"{manifest_key(folder)}: module {top!r} has the name of a module that is already loaded ({origin or 'built in'}); "
            "rename the file"
        )


def blame(error: BaseException, folder: Path) -> str:
    """`main.py:3: ValueError: ...`: the innermost line of the user's own that led to `error`, and the error."""
    if isinstance(error, SystemExit):
        text = f"it called sys.exit({error.code!r})"
    else:
        text = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(Path(error.filename), folder)}:{error.lineno}: {text}"
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    inside = [(file, line) for file, line in frames if folder in file.parents]
    own = [(file, line) for file, line in inside if folder / DEPS not in file.parents] or inside
    return f"{_shown(own[-1][0], folder)}:{own[-1][1]}: {text}" if own else text


def advice(error: BaseException, folder: Path) -> str:
    """What to do about it, where that is known."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    top = error.name.partition(".")[0]
    return f"; if {top!r} is a package, install it into the bundle: pip install --target {folder / DEPS} {top}"


def _shown(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder)) if folder in file.parents else str(file)


def is_async(handler: Callable[..., Any]) -> bool:
    """True if `handler`, what a decorator wraps, or an object's `__call__` is a coroutine or async generator function."""
    inner = inspect.unwrap(handler)
    candidates = (handler, inner, getattr(type(inner), "__call__", None))  # noqa: B004 - the function itself is wanted
    return any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in candidates)


def initialise(folder: Path, init: Callable[[Context], Any] | None, context: Context) -> Any:
    """Call `init_context` if there is one. Gives None, or a coroutine that is still to be run; raises StartError."""
    if init is None:
        return None
    try:
        result = init(context)
    except (Exception, SystemExit) as error:
        raise _init_failed(error, folder) from error
    return _awaited(result, folder) if inspect.isawaitable(result) else None


async def _awaited(result: Any, folder: Path) -> None:
    try:
        await result
    except (Exception, SystemExit) as error:
        raise _init_failed(error, folder) from error


def _init_failed(error: BaseException, folder: Path) -> StartError:
    return StartError(f"init_context failed: {blame(error, folder)}{advice(error, folder)}")


def _finish(pending: Any) -> None:
    """Run an async `init_context` of a sync handler on a loop of its own: afterwards no loop is left running."""
    if pending is not None:
        asyncio.run(pending)


async def _on_loop(init: Callable[[], Any]) -> None:
    """Run `init_context`, sync or not, on the loop that will run the handler, so that what it makes belongs to that loop."""
    pending = init()
    if pending is not None:
        await pending


def _nothing() -> None:
    return None
