"""Handler contract, "Loading": what the python runtime accepts, how it starts a function, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgehost.engine.spec import WorkerSpec
from edgehost.errors import ManifestError, StartError
from edgehost.event import Origin
from edgehost.plugin import load as load_plugin
from edgehost.runtimes.python import PythonRuntime
from edgehost.sdk.event import Event
from edgehost.sdk.program import Program


class QuietLink:
    secrets: ClassVar[dict[str, str | bytes]] = {}

    def log(self, level: str, message: str, fields: dict[str, Any], event_id: str | None = None) -> None: ...


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """A function's folder with these files."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        return tmp_path

    return write


@pytest.fixture
def unloaded() -> Iterator[None]:
    """A worker ends with its function; here the next test must not see the modules of the last."""
    modules, path = set(sys.modules), sys.path[:]
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path[:] = path


@pytest.fixture
def start(bundle: Any, unloaded: None) -> Callable[..., Program]:
    """Load a function as a worker does."""

    def run(files: dict[str, str], handler: str = "main:handler", on_loop: bool = False) -> Program:
        spec = WorkerSpec(
            *("f", "1", "", "python", handler, str(bundle(files)), 0, 1, 60.0, "bytes", on_loop, False, "info", {}),
            triggers=(Origin("mqtt", "t"),),
            outputs=(),
        )
        return PythonRuntime.load(spec, QuietLink())

    return run


ECHO = "def handler(context, event):\n    return event.body\n"


# check: what can be seen without running anything


@pytest.mark.parametrize(
    ("files", "handler"),
    [
        ({"main.py": ""}, "main:handler"),
        ({"main.py": "raise SystemExit"}, "main:handler"),
        ({"pkg/sub.py": ""}, "pkg.sub:handler"),
        ({"pkg/__init__.py": ""}, "pkg:handler"),
        ({"deps/lib.py": ""}, "lib:handler"),
        ({"deps/lib/part.py": ""}, "lib.part:handler"),
        ({"native.cpython-311-x86_64-linux-gnu.so".replace("cpython-311-x86_64-linux-gnu", "abi3"): ""}, "native:handler"),
        ({}, "email.message:handler"),
    ],
)
def test_a_handler_whose_module_is_in_sight_passes(files: dict[str, str], handler: str, bundle: Any) -> None:
    PythonRuntime.check(bundle(files), handler, None)


@pytest.mark.parametrize(
    ("files", "handler", "says"),
    [
        ({"main.py": ""}, "main", "function.toml handler: 'main' has no colon; write module:function, such as main:handler"),
        ({"main.py": ""}, "", "function.toml handler: '' has no colon"),
        ({"main.py": ""}, "main.py:", "'main.py:' is not module"),
        ({"main.py": ""}, ":handler", "':handler' is not module"),
        ({"main.py": ""}, "my-main:handler", "'my-main:handler' is not module"),
        ({"main.py": ""}, "../main:handler", "is not module"),
        ({"main.py": ""}, "main:handler:x", "is not module"),
        (
            {"app.py": "", "b.py": ""},
            "main:handler",
            "there is no module 'main' in {folder} (it holds app.py, b.py) or its deps/",
        ),
        ({}, "main:handler", "(it holds no Python file)"),
        ({"pkg/__init__.py": ""}, "pkg.sub:handler", "there is no module 'pkg.sub' in"),
        ({"function.yaml": "", "main.py": ""}, "main", "function.yaml spec.handler: 'main' has no colon"),
        ({"edgehost/__init__.py": "", "main.py": ""}, "main:handler", "holds a module named `edgehost`"),
    ],
)
def test_a_handler_that_cannot_be_is_refused_with_its_manifest_line(
    files: dict[str, str], handler: str, says: str, bundle: Any
) -> None:
    folder = bundle(files)
    with pytest.raises(ManifestError) as caught:
        PythonRuntime.check(folder, handler, None)
    assert says.format(folder=folder) in str(caught.value)


def test_the_runtime_is_found_by_its_name() -> None:
    assert load_plugin("runtime", "python") is PythonRuntime


# load


def test_the_handler_gets_its_context_and_the_event(start: Any) -> None:
    program = start({"main.py": "def handler(context, event):\n    return context.function_name, event.body\n"})
    assert program.handle(Event(body=b"x")) == ("f", b"x")
    assert program.asynchronous is False


def test_the_root_comes_before_deps_and_deps_before_everything_else(start: Any) -> None:
    files = {
        "main.py": "import one, two, three\ndef handler(context, event):\n    return one.here, two.here, three.here\n",
        "one.py": "here = 'root'",
        "deps/one.py": "here = 'deps'",
        "deps/two.py": "here = 'deps'",
        "deps/three/__init__.py": "from three.part import here",
        "deps/three/part.py": "here = 'package in deps'",
    }
    assert start(files).handle(None) == ("root", "deps", "package in deps")


def test_a_dotted_module_is_found(start: Any) -> None:
    assert start({"pkg/sub/main.py": ECHO}, "pkg.sub.main:handler").handle(Event(body=b"x")) == b"x"


@pytest.mark.parametrize(
    ("definition", "kind", "asynchronous"),
    [
        ("def handler(context, event): return b'x'", bytes, False),
        ("async def handler(context, event): return b'x'", "coroutine", True),
        ("def handler(context, event): yield b'x'", "generator", False),
        ("async def handler(context, event): yield b'x'", "asyncgen", True),
        ("class H:\n    async def __call__(self, context, event): return b'x'\nhandler = H()", "coroutine", True),
        ("class H:\n    def __call__(self, context, event): return b'x'\nhandler = H()", bytes, False),
        ("import functools\nasync def h(a, context, event): return a\nhandler = functools.partial(h, b'x')", "coroutine", True),
        (
            "import functools\nasync def h(context, event): return b'x'\n@functools.wraps(h)\ndef handler(*a): return h(*a)",
            "coroutine",
            True,
        ),
    ],
)
def test_every_kind_of_handler_is_known(definition: str, kind: Any, asynchronous: bool, start: Any) -> None:
    program = start({"main.py": definition})
    result = program.handle(Event())
    assert program.asynchronous is asynchronous
    checks = {"coroutine": inspect.iscoroutine, "generator": inspect.isgenerator, "asyncgen": inspect.isasyncgen}
    assert isinstance(result, kind) if isinstance(kind, type) else checks[kind](result)
    if kind == "coroutine":
        assert asyncio.run(result) == b"x"


def test_on_loop_runs_a_sync_handler_on_the_loop(start: Any) -> None:
    source = "import asyncio\ndef handler(context, event):\n    return asyncio.get_running_loop() is not None\n"
    program = start({"main.py": source}, on_loop=True)

    async def worker() -> Any:
        return program.handle(Event())

    assert program.asynchronous
    assert asyncio.run(worker()) is True


# init_context


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_init_context_of_a_sync_handler_runs_once_and_leaves_no_loop(keyword: str, start: Any) -> None:
    source = f"""
        import asyncio
        {keyword} init_context(context):
            context.user_data.count = getattr(context.user_data, "count", 0) + 1
        def handler(context, event):
            async def answer():
                return context.user_data.count
            return asyncio.run(answer())
    """
    program = start({"main.py": source})
    assert program.handle(Event()) == 1
    assert program.handle(Event()) == 1


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_init_context_of_an_async_handler_runs_on_the_loop_of_the_handler(keyword: str, start: Any) -> None:
    source = f"""
        import asyncio
        {keyword} init_context(context):
            context.user_data.loop = asyncio.get_running_loop()
        async def handler(context, event):
            return context.user_data.loop is asyncio.get_running_loop()
    """
    program = start({"main.py": source})

    async def worker() -> Any:
        await program.on_start()
        return await program.handle(Event())

    assert asyncio.run(worker()) is True


def test_a_function_without_init_context_starts(start: Any) -> None:
    program = start({"main.py": "async def handler(context, event): return 1"})
    asyncio.run(program.on_start())


def test_callbacks_set_in_init_context_are_the_programs(start: Any) -> None:
    source = """
        def init_context(context):
            context.platform.set_drain_callback(lambda: "drained")
            context.platform.set_termination_callback(lambda: "ended")
        def handler(context, event): ...
    """
    program = start({"main.py": source})
    assert (program.on_drain(), program.on_terminate()) == ("drained", "ended")


# Failures name the user's own line and say what to do


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"main.py": "import os\n\nimport no_such_pkg.part\n" + ECHO},
            "function.toml handler: cannot import 'main': main.py:3: ModuleNotFoundError: No module named 'no_such_pkg'; if ",
        ),
        (
            {"main.py": "import no_such_pkg.part\n" + ECHO},
            "; if 'no_such_pkg' is a package, install it into the bundle: pip install --target {folder}/deps no_such_pkg",
        ),
        ({"main.py": "def handler(context, event)\n    pass\n"}, "main.py:1: SyntaxError: expected ':'"),
        ({"main.py": "import aid\n" + ECHO, "aid.py": "x = 1\n\n1 / 0\n"}, "aid.py:3: ZeroDivisionError: division by zero"),
        ({"main.py": "import aid\n" + ECHO, "aid.py": "def f(:\n"}, "aid.py:1: SyntaxError"),
        ({"main.py": "import lib\n" + ECHO, "deps/lib.py": "1 / 0"}, "main.py:1: ZeroDivisionError"),
        ({"main.py": "import json\njson.loads('{')\n" + ECHO}, "main.py:2: JSONDecodeError"),
        ({"main.py": "from os import nothing\n" + ECHO}, "main.py:1: ImportError: cannot import name 'nothing'"),
        ({"main.py": "import sys\nsys.exit(3)\n"}, "main.py:2: it called sys.exit(3)"),
        ({"main.py": ""}, "function.toml handler: module 'main' has no function 'handler'; its functions are none"),
        (
            {"main.py": "from os import getcwd\ndef handle(context, event): ...\ndef other(): ...\n"},
            "module 'main' has no function 'handler'; its functions are handle, other",
        ),
        ({"main.py": "handler = 5"}, "module 'main' has 'handler', but it is no function"),
        ({"app.py": ECHO}, "function.toml handler: there is no module 'main' in {folder} (it holds app.py) or its deps/"),
        (
            {"main.py": ECHO + "def init_context(context):\n    raise RuntimeError('no sensor at 0x40')\n"},
            "init_context failed: main.py:4: RuntimeError: no sensor at 0x40",
        ),
        (
            {"main.py": ECHO + "async def init_context(context):\n    raise RuntimeError('no sensor at 0x40')\n"},
            "init_context failed: main.py:4: RuntimeError: no sensor at 0x40",
        ),
        (
            {"main.py": ECHO + "def init_context(context):\n    import no_such_pkg\n"},
            "init_context failed: main.py:4: ModuleNotFoundError: No module named 'no_such_pkg'; if 'no_such_pkg' is a package",
        ),
        (
            {"main.py": ECHO + "def init_context(context):\n    raise SystemExit(1)\n"},
            "init_context failed: main.py:4: it called sys.exit(1)",
        ),
        (
            {"main.py": ECHO + "def init_context(): ...\n"},
            "init_context failed: TypeError: init_context() takes 0 positional arguments",
        ),
    ],
)
def test_a_function_that_cannot_start_says_where_and_why(files: dict[str, str], says: str, start: Any, tmp_path: Path) -> None:
    with pytest.raises(StartError) as caught:
        start(files)
    assert says.format(folder=tmp_path) in str(caught.value)
    assert "edgehost/runtimes" not in str(caught.value)


def test_the_async_init_context_of_an_async_handler_fails_the_start(start: Any) -> None:
    source = "async def init_context(context):\n    raise RuntimeError('no sensor')\nasync def handler(context, event): ...\n"
    program = start({"main.py": source})
    with pytest.raises(StartError, match=r"init_context failed: main.py:2: RuntimeError: no sensor"):
        asyncio.run(program.on_start())


def test_a_handler_named_like_a_loaded_module_is_refused(start: Any) -> None:
    with pytest.raises(
        StartError, match=r"module 'queue' has the name of a module that is already loaded \(.*queue.py\); rename the file"
    ):
        start({"queue.py": ECHO}, "queue:handler")


# A fresh interpreter, for what depends on which modules are loaded already

IN_A_WORKER = """
import sys
{preamble}
from edgehost.engine import worker
from edgehost.engine.spec import WorkerSpec
from edgehost.runtimes.python import PythonRuntime
spec = WorkerSpec("f", "1", "", "python", "main:handler", sys.argv[1], 0, 1, 60.0, "bytes", False, False, "info", {}, (), ())
class Link:
    secrets = {}
print(PythonRuntime.load(spec, Link()).handle(None))
"""


def in_a_worker(folder: Path, preamble: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_WORKER.replace("{preamble}", preamble), str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


EDGEHOST = Path(__file__).parents[2] / "edgehost"
OWN_NAMES = sorted(
    {file.stem for file in EDGEHOST.rglob("*.py") if not file.stem.startswith("__")}
    | {folder.name for folder in EDGEHOST.rglob("*") if folder.is_dir() and not folder.name.startswith("__")}
    | {"triggers", "runtimes", "device_profiles", "edgehost_x", "tests", "tools"}
)


def test_no_module_name_of_edgehost_shadows_one_of_the_bundle(bundle: Any) -> None:
    standard = sys.stdlib_module_names
    names = [name for name in OWN_NAMES if name not in standard and name.isidentifier()]
    assert {"event", "triggers", "runtimes", "worker", "context", "answer"} <= set(names)
    files = {f"{name}.py": f"here = 'bundle {name}'" for name in names if name != "main"}
    imports = "\n".join(f"import {name}\nassert {name}.here == 'bundle {name}', {name}" for name in names if name != "main")
    folder = bundle({**files, "main.py": f"{imports}\ndef handler(context, event):\n    return 'all mine'\n"})
    assert in_a_worker(folder) == "all mine"


def test_a_bundle_may_bring_nuclio_sdk_and_return_its_response(bundle: Any) -> None:
    folder = bundle(
        {
            "deps/nuclio_sdk/__init__.py": "class Response:\n  body, headers, content_type, status_code = b'own', {}, 'x/y', 202",
            "main.py": """
                import nuclio_sdk
                from edgehost.sdk.answer import to_response
                def handler(context, event):
                    response = to_response(nuclio_sdk.Response())
                    return response.status, response.content_type, response.body
            """,
        }
    )
    assert in_a_worker(folder) == "(202, 'x/y', b'own')"


def test_a_file_that_came_after_the_zygote_looked_is_found(bundle: Any) -> None:
    folder = bundle({"main.py": ECHO.replace("event.body", "'found'")})
    hidden = folder / "main.py.new"
    (folder / "main.py").rename(hidden)
    look = f"""
import importlib.util, os
sys.path.insert(0, {str(folder)!r})
assert importlib.util.find_spec("main") is None
stamp = os.stat({str(folder)!r})
os.rename({str(hidden)!r}, {str(folder / "main.py")!r})
os.utime({str(folder)!r}, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
"""
    assert in_a_worker(folder, look) == "found"


def test_loading_imports_nothing_that_the_zygote_has_not(bundle: Any) -> None:
    preamble = f"import edgehost.engine.worker, edgehost.runtimes.python\nfor name in {PythonRuntime.preload}: __import__(name)\n"
    preamble += "before = set(sys.modules)\nimport atexit\natexit.register(lambda: print(sorted(set(sys.modules) - before)))"
    folder = bundle({"main.py": "def handler(context, event):\n    return 'answer'\n"})
    assert in_a_worker(folder, preamble).splitlines() == ["answer", "['main']"]
