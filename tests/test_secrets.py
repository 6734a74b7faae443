"""Secrets: what edgehost.toml may say of them, who may have them, which files are fit for one."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgehost.config import Broker, Config, Secret
from edgehost.config_toml import read_config
from edgehost.errors import ConfigError, ManifestError, StartError
from edgehost.secrets import MOST_BYTES, as_text, check_granted, exposed, packed, private_files

Read = Callable[[str], Config]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def config(text: str) -> Config:
        (tmp_path / "edgehost.toml").write_text(text)
        return read_config(tmp_path / "edgehost.toml")

    return config


def test_secrets_are_read_and_their_paths_made_absolute(read: Read, tmp_path: Path) -> None:
    config = read(
        '[secrets.db]\nfile = "secrets/db"\nfunctions = ["a", "b"]\n[secrets.mail]\ncredential = "m"\nfunctions = ["a"]\n'
    )
    assert config.secrets == {
        "db": Secret(("a", "b"), file=str(tmp_path / "secrets/db")),
        "mail": Secret(("a",), credential="m"),
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('file = "x"', "[secrets.db].functions: missing"),
        ('functions = ["a"]', "[secrets.db].file: give either file or credential"),
        ('functions = ["a"]\nfile = "x"\ncredential = "y"', "[secrets.db].file: give either file or credential"),
        ('functions = ["a"]\ncredential = "../y"', '[secrets.db].credential: "../y" is not allowed'),
        ('functions = ["a"]\nfile = "x"\nvalue = "s3cr3t"', "[secrets.db].value: no such key"),
    ],
)
def test_a_mistake_is_one_line(read: Read, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(f"[secrets.db]\n{text}\n")
    assert told in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_a_secret_is_for_the_functions_that_are_named() -> None:
    secrets = {"db": Secret(("a",), file="/x")}
    check_granted("a", ["db"], secrets)
    check_granted("b", [], secrets)
    with pytest.raises(ManifestError) as caught:
        check_granted("b", ["db"], secrets)
    assert str(caught.value) == ("secrets: 'db' is not for the function 'b'; add it to [secrets.db].functions in edgehost.toml")
    with pytest.raises(ManifestError) as caught:
        check_granted("b", ["mail"], secrets)
    assert str(caught.value) == (
        "secrets: 'mail' is not in edgehost.toml (it has: db); "
        'add [secrets.mail] with file or credential, and functions = ["b"]'
    )


def kept(path: Path, value: bytes = b"s3cr3t\n", mode: int = 0o600) -> dict[str, Secret]:
    path.write_bytes(value)
    path.chmod(mode)
    return {"db": Secret(("a",), file=str(path))}


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_value_is_read_when_it_is_asked_for(tmp_path: Path, mode: int) -> None:
    secrets = kept(tmp_path / "db", mode=mode)
    assert msgspec.msgpack.decode(packed(["db"], secrets)) == {"db": "s3cr3t"}
    (tmp_path / "db").chmod(0o600)
    (tmp_path / "db").write_text("another")
    assert msgspec.msgpack.decode(packed(["db"], secrets)) == {"db": "another"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"a", "a"),
        (b"a\n", "a"),
        (b"a\r\n", "a"),
        (b"a\n\n", "a\n"),
        (b"a \n", "a "),
        (b"\xff\n", b"\xff\n"),
        ("é".encode(), "é"),
        (b"", ""),
    ],
)
def test_one_line_end_is_no_part_of_it(value: bytes, text: str | bytes) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o602])
def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(StartError) as caught:
        packed(["db"], kept(tmp_path / "db", mode=mode))
    assert str(caught.value) == (f"secrets.db: {tmp_path}/db has mode {mode:04o}, so others may read or change it; chmod 600 it")


def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    def status(uid: int) -> os.stat_result:
        return os.stat_result((stat.S_IFREG | 0o600, 0, 0, 1, uid, 0, 0, 0, 0, 0))

    assert exposed(status(1000), 1000) == exposed(status(0), 1000) == ""
    assert exposed(status(1001), 1000).startswith("belongs to user 1001; chown it")


def test_what_is_no_file_is_refused_and_waits_for_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name in ("fifo", "folder"):
        with pytest.raises(StartError, match=f"secrets.db: {tmp_path}/{name} is no file"):
            packed(["db"], {"db": Secret(("a",), file=str(tmp_path / name))})
    with pytest.raises(StartError, match="No such file"):
        packed(["db"], {"db": Secret(("a",), file=str(tmp_path / "gone"))})
    with pytest.raises(StartError, match=f"{MOST_BYTES} are the most"):
        packed(["db"], kept(tmp_path / "big", bytes(MOST_BYTES + 1)))


def test_a_credential_comes_from_systemds_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"db": Secret(("a",), credential="m")}
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(StartError, match=r"there is no credential 'm': \$CREDENTIALS_DIRECTORY is not set"):
        packed(["db"], secrets)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "m").write_text("s3cr3t")
    (tmp_path / "m").chmod(0o440)  # systemd gives its user the right by an access list, which shows as the group's
    assert msgspec.msgpack.decode(packed(["db"], secrets)) == {"db": "s3cr3t"}


def test_the_agents_own_passwords_are_private_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/e")
    config = Config(
        secrets={"db": Secret(("a",), file="/s/db"), "mail": Secret(("a",), credential="m")},
        brokers={"default": Broker("mqtt://x", password_file="/s/password", ca_file="/s/ca", key_file="/s/key")},
    )
    assert {str(path) for path in private_files(config)} == {"/s/db", "/s/password", "/s/key", "/run/credentials/e"}
