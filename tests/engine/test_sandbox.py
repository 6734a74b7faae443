"""What a confined worker can and cannot do, tried for real: each attack is a handler that makes the system call."""

from __future__ import annotations

import os
import pty
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgehost.engine import landlock, sandbox
from edgehost.engine.cell import Cells
from edgehost.errors import StartError
from edgehost.event import Event
from edgehost.manifest.model import Sandbox

needs_landlock = pytest.mark.skipif(landlock.version() < landlock.SCOPE_ABI, reason="needs Landlock 6 (Linux 6.12)")

TRY = '''
import ctypes, os, signal, socket, sqlite3, ssl, subprocess, tempfile, threading, zoneinfo
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)

def handler(context, event):
    """What the expression gives, or the error it ends in."""
    try:
        return str(eval(event.body.decode(), globals()))
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def traced(pid):
    PTRACE_ATTACH = 16
    return os.strerror(ctypes.get_errno()) if libc.ptrace(PTRACE_ATTACH, pid, 0, 0) else "attached"

def memory_of(pid):
    class Piece(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
    here = ctypes.create_string_buffer(16)
    mine, theirs = Piece(ctypes.addressof(here), 16), Piece(0x400000, 16)
    libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
    return os.strerror(ctypes.get_errno())

def mounted():
    return os.strerror(ctypes.get_errno()) if libc.mount(b"none", b"/mnt", b"tmpfs", 0, None) else "mounted"

def shared_lock():
    import multiprocessing
    return multiprocessing.get_context("fork").Lock().acquire()

def thread():
    seen = []
    one = threading.Thread(target=lambda: seen.append(1))
    one.start()
    one.join()
    return seen

def connect(port):
    with socket.create_connection(("127.0.0.1", port), 5):
        return "connected"

def bind(port):
    with socket.create_server(("127.0.0.1", port)):
        return "bound"
'''

Try = Callable[[Any, str], Any]


@pytest.fixture
def attempt(answer: Any) -> Try:
    """`await attempt(function, expression)`: the text the handler answered."""

    async def ask(function: Any, expression: str) -> str:
        response = await answer(function.submit(Event(expression.encode())))
        assert not response.code, response
        return bytes(response.body).decode()

    return ask


@needs_landlock
async def test_what_is_not_its_own_is_out_of_reach(engine: Any, attempt: Try, tmp_path: Path) -> None:
    function = await engine.function(TRY, sandbox=Sandbox())
    other = await engine.function(TRY, "other", sandbox=Sandbox())
    (tmp_path / "secret").write_text("s3cr3t")
    agent, zygote = os.getpid(), next(iter(engine.nursery._zygotes.values())).pid
    theirs = other.pool.workers[0].pid
    temp = await attempt(other, "tempfile.gettempdir()")
    for expression in (
        f"open({str(tmp_path / 'secret')!r}).read()",
        f"open({str(tmp_path / 'other' / 'main.py')!r}).read()",
        f"os.listdir({str(tmp_path)!r})",
        f"os.listdir({temp!r})",
        f"os.symlink({str(tmp_path / 'secret')!r}, tempfile.gettempdir() + '/s') or open(tempfile.gettempdir() + '/s').read()",
        f"os.link({str(tmp_path / 'secret')!r}, tempfile.gettempdir() + '/l')",
        f"subprocess.run(['cat', {str(tmp_path / 'secret')!r}], check=True, stderr=-3)",
        "open('own', 'w')",
        "os.unlink('main.py')",
        "open('/etc/edgehost-was-here', 'w')",
        "os.mkdir('/tmp/edgehost-was-here')",
        "open('/dev/tty', 'w')",
        f"open('/proc/{theirs}/environ').read()",
        f"open('/proc/{theirs}/mem', 'rb').read(1)",
        f"os.readlink('/proc/{theirs}/fd/1')",
        f"open('/proc/{theirs}/fd/1', 'w')",
        f"open('/proc/{theirs}/maps').read()",
        f"open('/proc/{theirs}/root/etc/hostname').read()",
        f"open('/proc/{agent}/environ').read()",
        f"open('/proc/{zygote}/mem', 'rb').read(1)",
        f"os.kill({agent}, signal.SIGTERM)",
        f"os.kill({zygote}, signal.SIGKILL)",
        f"os.kill({theirs}, signal.SIGKILL)",
        "open('/proc/self/oom_score_adj', 'w')",
    ):
        told = await attempt(function, expression)
        refused = ("PermissionError: ", "OSError: [Errno 18]", "CalledProcessError")  # 18: EXDEV, a link between two folders
        assert told.startswith(refused), (expression, told)
    for expression in (f"traced({theirs})", f"traced({agent})", f"memory_of({theirs})", f"memory_of({agent})", "mounted()"):
        assert await attempt(function, expression) == "Operation not permitted", expression
    assert "NoNewPrivs:\t1" in await attempt(function, "open('/proc/self/status').read()")
    assert await attempt(other, "'untouched'") == "untouched"


@needs_landlock
async def test_ordinary_code_notices_nothing(engine: Any, attempt: Try) -> None:
    function = await engine.function(TRY, sandbox=Sandbox())
    for expression, told in (
        ("tempfile.TemporaryFile().write(b'x')", "1"),
        ("Path(tempfile.mkdtemp(), 'a').write_text('x')", "1"),
        ("sqlite3.connect(tempfile.gettempdir() + '/d').execute('create table t (a)').fetchall()", "[]"),
        ("subprocess.run(['sh', '-c', 'echo hello > /dev/null; echo $((1 + 1))'], capture_output=True).stdout", r"b'2\n'"),
        ("subprocess.run(['sh', '-c', 'mktemp'], capture_output=True).returncode", "0"),
        ("socket.gethostbyname('localhost')", "127.0.0.1"),
        ("len(ssl.create_default_context().get_ca_certs()) >= 0", "True"),
        ("zoneinfo.ZoneInfo('Europe/Berlin').key", "Europe/Berlin"),
        ("thread()", "[1]"),
        ("os.urandom(3) != open('/dev/urandom', 'rb').read(3)", "True"),
        ("int(open('/proc/self/stat').read().split()[0]) == os.getpid()", "True"),
        ("'processor' in open('/proc/cpuinfo').read()", "True"),
        ("os.path.exists('/sys/devices/system/cpu')", "True"),
        ("Path('main.py').exists() and Path(__file__).read_text()[:1] == '\\n'", "True"),
        ("os.kill(os.getpid(), 0)", "None"),
        ("__import__('msgspec').__name__", "msgspec"),
    ):
        assert await attempt(function, expression) == told, expression


@needs_landlock
async def test_the_manifest_opens_what_a_function_needs(engine: Any, attempt: Try, tmp_path: Path) -> None:
    for name in ("seen", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("there")
    function = await engine.function(TRY, sandbox=Sandbox(read=("../seen",), write=(str(tmp_path / "kept"), "/dev/shm")))
    assert await attempt(function, "open('../seen/file').read()") == "there"
    assert (await attempt(function, "open('../seen/file', 'w')")).startswith("PermissionError")
    assert await attempt(function, "open('../kept/file', 'a').write('!') and open('../kept/file').read()") == "there!"
    assert await attempt(function, "os.rename('../kept/file', '../kept/other') or os.remove('../kept/other')") == "None"
    assert await attempt(function, "shared_lock()") == "True"


@needs_landlock
async def test_devices_are_closed_unless_named(engine: Any, attempt: Try, lines: Any) -> None:
    main, terminal = pty.openpty()
    name = os.ttyname(terminal)
    try:
        closed = await engine.function(TRY, "closed", sandbox=Sandbox())
        opened = await engine.function(TRY, "opened", sandbox=Sandbox(devices=(name, "/dev/edgehost-none*")))
        assert (await attempt(closed, f"os.open({name!r}, os.O_RDWR | os.O_NOCTTY)")).startswith("PermissionError")
        assert int(await attempt(opened, f"os.open({name!r}, os.O_RDWR | os.O_NOCTTY)")) > 2
        (line,) = [record.getMessage() for record in lines() if "is not there" in record.getMessage()]
        assert line == "sandbox: /dev/edgehost-none* is not there; a worker started later may use it"
    finally:
        os.close(main)
        os.close(terminal)


@pytest.fixture
def server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@needs_landlock
async def test_tcp_is_for_the_ports_of_the_manifest(engine: Any, attempt: Try, server: int, free_port: Callable[[], int]) -> None:
    other = free_port()
    none = await engine.function(TRY, "none", sandbox=Sandbox(network="none"))
    one = await engine.function(TRY, "one", sandbox=Sandbox(network=(server,)))
    every = await engine.function(TRY, "every", sandbox=Sandbox())
    assert await attempt(every, f"connect({server}), bind({other})") == "('connected', 'bound')"
    assert await attempt(one, f"connect({server})") == "connected"
    for function, expression in (
        (one, f"connect({other})"),
        (one, f"bind({other})"),
        (none, f"connect({server})"),
        (none, "bind(0)"),
    ):
        assert (await attempt(function, expression)).startswith("PermissionError"), (function.name, expression)


async def test_a_sandbox_that_is_off_is_off(engine: Any, attempt: Try, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("seen")
    function = await engine.function(TRY, sandbox=Sandbox(enabled=False))
    assert await attempt(function, "open('../file').read()") == "seen"
    assert "NoNewPrivs:\t1" in await attempt(function, "open('/proc/self/status').read()")


async def test_without_landlock_a_function_runs_unless_it_requires_it(
    engine: Any, attempt: Try, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    function = await engine.function(TRY, sandbox=Sandbox())
    assert await attempt(function, "1") == "1"
    strict = engine.build(TRY, "strict", sandbox=Sandbox(required=True))
    with pytest.raises(StartError, match=r"strict: sandbox.required: this kernel has no Landlock"):
        await strict.start()
    await strict.close()


@needs_landlock
async def test_a_private_file_stays_closed_whatever_the_manifest_opens(engine: Any, attempt: Try, tmp_path: Path) -> None:
    for name in ("open", "closed/key", "closed/near"):
        (tmp_path / "etc" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "etc" / name).write_text(name)
    (tmp_path / "etc" / "around").symlink_to(tmp_path / "etc" / "closed")
    engine.nursery.cells = Cells(private=frozenset({tmp_path / "etc" / "closed" / "key"}))
    function = await engine.function(TRY, sandbox=Sandbox(read=("../etc",)))
    assert await attempt(function, "open('../etc/open').read() + open('../etc/closed/near').read()") == "openclosed/near"
    for path in ("../etc/closed/key", "../etc/around/key"):
        assert (await attempt(function, f"open({path!r}).read()")).startswith("PermissionError")


def paths(rules: Any) -> set[str]:
    return {path for path, _ in rules}


def test_rules_leave_out_private_files_and_links_to_them(tmp_path: Path) -> None:
    root = tmp_path / "r"
    (root / "a/b").mkdir(parents=True)
    for name in ("x", "a/y", "a/b/private", "a/b/z"):
        (root / name).touch()
    (root / "to-private").symlink_to(root / "a/b/private")
    (root / "to-a").symlink_to(root / "a")
    (root / "to-x").symlink_to(root / "x")
    (root / "broken").symlink_to(root / "nowhere")
    found = {str(path.relative_to(root)) for path in sandbox.carve(root, frozenset({root / "a/b/private"}))}
    assert found == {"x", "a/y", "a/b/z"}
    assert list(sandbox.carve(root, frozenset())) == [root]
    assert list(sandbox.carve(root / "a", frozenset({root}))) == []
    assert list(sandbox.carve(root / "gone", frozenset())) == []


def test_a_folder_that_may_not_be_listed_stays_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ssl/private").mkdir(parents=True)
    for name in ("ssl/private/key", "ssl/private/other", "ssl/openssl.cnf"):
        (tmp_path / name).touch()
    iterdir = Path.iterdir

    def listed(folder: Path) -> Iterator[Path]:
        if folder.name == "private":
            raise PermissionError(13, "Permission denied", str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", listed)
    assert list(sandbox.carve(tmp_path, frozenset({tmp_path / "ssl/private/key"}))) == [tmp_path / "ssl/openssl.cnf"]


def test_links_in_a_circle_open_nothing(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("key", "open"):
        (tmp_path / name).touch()
    assert list(sandbox.carve(tmp_path, frozenset({tmp_path / "key"}))) == [tmp_path / "open"]
    rules = sandbox.own_rules(Sandbox(read=("circle",)), tmp_path, tmp_path / "temp", (), frozenset())
    assert paths(rules) == {str(tmp_path)}
    Cells(private=frozenset({tmp_path / "circle"}))


def test_a_path_that_cannot_be_looked_at_is_missing(tmp_path: Path) -> None:
    longer_than_a_name_may_be = "x" * 300
    assert sandbox.missing(Sandbox(read=(longer_than_a_name_may_be,)), tmp_path) == [longer_than_a_name_may_be]


@pytest.mark.parametrize(
    ("write", "may"),
    [
        ((), False),
        ((".",), True),
        (("..",), True),
        (("/",), True),
        (("data",), False),
        (("function.toml",), True),
        (("link",), True),
        (("../g",), False),
    ],
)
def test_who_may_write_a_manifest(tmp_path: Path, write: tuple[str, ...], may: bool) -> None:
    folder = tmp_path / "f"
    for name in ("f/data", "g"):
        (tmp_path / name).mkdir(parents=True)
    (folder / "link").symlink_to(folder)
    places = (folder, folder / "function.toml")
    assert sandbox.may_replace(Sandbox(write=write), folder, places) is may
    assert not sandbox.may_replace(Sandbox(write=write, enabled=False), folder, places)


def test_who_may_write_what_a_link_leads_to_or_the_link(tmp_path: Path) -> None:
    for name in ("current", "versions/1"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "current/f").symlink_to(tmp_path / "versions/1")
    for write in ("current", "versions"):
        assert sandbox.may_replace(Sandbox(write=(str(tmp_path / write),)), tmp_path / "other", (tmp_path / "current/f",))


def test_the_working_folder_is_not_everybodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert tmp_path not in sandbox.python_places()


def test_a_rule_further_out_makes_others_needless(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    rules = sandbox.system_rules((tmp_path, tmp_path / "lib"), frozenset())
    assert str(tmp_path) in paths(rules) and str(tmp_path / "lib") not in paths(rules)


@pytest.mark.parametrize(("abi", "bits"), [(1, 13), (2, 14), (3, 15), (4, 15), (5, 16), (7, 16), (9, 16)])
def test_older_kernels_are_asked_for_what_they_know(abi: int, bits: int) -> None:
    assert landlock.files_handled(abi) == (1 << bits) - 1
