"""The socket is made for owner and group, replaces what a dead agent left, and never takes a living one's place."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from edgehost import __version__
from edgehost.control.address import agent_address, belongs_to_another, client_addresses
from edgehost.control.listener import listen
from edgehost.control.local import LocalServer
from edgehost.errors import ControlError


def leave_stale(address: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(address))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_owner_and_group_may_reach_it_whatever_the_umask(tmp_path, umask):
    address = tmp_path / "run" / "edgehost" / "agent.sock"
    before = os.umask(umask)
    try:
        listen(address).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(address.stat().st_mode) == 0o660
    assert stat.S_IMODE(address.parent.stat().st_mode) == 0o750


def test_the_rights_of_a_folder_that_was_there_are_left_alone(tmp_path):
    tmp_path.chmod(0o711)
    listen(tmp_path / "s").close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o711


def test_a_socket_nobody_answers_on_is_replaced(tmp_path):
    address = tmp_path / "s"
    leave_stale(address)
    with listen(address), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(address))


async def test_a_living_agent_is_named_and_left_alone(host, tmp_path):
    """The probe blocks, so it runs beside the loop the living agent is on."""
    server = LocalServer(tmp_path / "s", host)
    await server.start()
    message: list[str] = []

    def second() -> None:
        with pytest.raises(ControlError) as caught:
            listen(server.address)
        message.append(str(caught.value))

    await asyncio.get_running_loop().run_in_executor(None, second)
    await server.stop()
    agent = f"an agent (pid {os.getpid()}, edgehost {__version__})"
    assert message == [f"{agent} already answers at {server.address}; stop it, or give this one its own --socket"]


@pytest.mark.parametrize("says", [b"", b"hello there, this is something else entirely", b"\xff\xff\xff\xff"])
def test_a_stranger_on_the_socket_is_left_alone(tmp_path, says):
    address = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(address))
        stranger.listen()

        def answer() -> None:
            peer, _ = stranger.accept()
            with peer:
                peer.recv(100)
                peer.sendall(says)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ControlError, match="a process that does not speak edgehost's protocol already answers at"):
            listen(address)
        thread.join()
    assert address.exists()


def test_a_file_that_is_no_socket_is_never_removed(tmp_path):
    address = tmp_path / "s"
    address.write_text("precious")
    with pytest.raises(ControlError, match="a file that is not a socket stands there; move it away or give --socket"):
        listen(address)
    assert address.read_text() == "precious"


def test_a_path_too_long_for_a_socket_says_so(tmp_path):
    with pytest.raises(ControlError, match="at most 107 bytes; give a shorter --socket"):
        listen(tmp_path / ("x" * 120))


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ControlError, match=r"socket .*file/sub/s: .*; name one this user may make with --socket"):
        listen(tmp_path / "file" / "sub" / "s")


async def test_stop_leaves_a_socket_alone_that_is_no_longer_its_own(host, tmp_path):
    server = LocalServer(tmp_path / "s", host)
    await server.start()
    server.address.unlink()
    leave_stale(server.address)
    await server.stop()
    assert server.address.exists()


@pytest.mark.parametrize(
    ("configured", "environ", "uid", "expected"),
    [
        ("/a/b.sock", {"RUNTIME_DIRECTORY": "/run/edgehost"}, 0, "/a/b.sock"),
        (None, {"RUNTIME_DIRECTORY": "/run/edgehost:/run/x", "XDG_RUNTIME_DIR": "/run/user/5"}, 5, "/run/edgehost/agent.sock"),
        (None, {"XDG_RUNTIME_DIR": "/run/user/5"}, 5, "/run/user/5/edgehost/agent.sock"),
        (None, {"XDG_RUNTIME_DIR": "/run/user/0"}, 0, "/run/user/0/edgehost/agent.sock"),
        (None, {}, 0, "/run/edgehost/agent.sock"),
        (None, {}, 1000, "/tmp/edgehost-1000/agent.sock"),
    ],
)
def test_where_an_agent_listens(configured, environ, uid, expected):
    assert agent_address(Path(configured) if configured else None, environ, uid) == Path(expected)


@pytest.mark.parametrize(
    ("environ", "uid"),
    [({}, 0), ({}, 1000), ({"XDG_RUNTIME_DIR": "/run/user/5"}, 5), ({"RUNTIME_DIRECTORY": "/run/edgehost"}, 999)],
)
def test_a_client_finds_the_agent_wherever_it_listens_by_default(environ, uid):
    shell = {key: value for key, value in environ.items() if key != "RUNTIME_DIRECTORY"}
    assert agent_address(None, environ, uid) in client_addresses(None, shell, uid)


def test_a_client_looks_only_where_it_is_told():
    assert client_addresses(Path("/x"), {"EDGEHOST_SOCKET": "/y"}, 0) == [Path("/x")]
    assert client_addresses(None, {"EDGEHOST_SOCKET": "/y"}, 0) == [Path("/y")]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make a folder of another user")
def test_a_folder_in_tmp_that_another_user_made_is_not_used():
    folder = Path(f"/tmp/edgehost-test-{os.getpid()}")
    folder.mkdir()
    try:
        assert not belongs_to_another(folder / "agent.sock", os.getuid())
        os.chown(folder, 12345, 12345)
        assert belongs_to_another(folder / "agent.sock", os.getuid())
        with pytest.raises(ControlError, match="belongs to another user"):
            listen(folder / "agent.sock")
    finally:
        folder.rmdir()
