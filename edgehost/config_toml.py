"""Reads edgehost.toml into a Config: paths made absolute, broker URLs and addresses checked, secrets' files looked at."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from edgehost.config import Broker, Config, Disk, Gpio, Http, Journal, Log, Secret, SerialPort
from edgehost.errors import ConfigError
from edgehost.manifest.conversion import to_struct
from edgehost.manifest.place import toml_place
from edgehost.manifest.problem import Mistake, not_allowed, show, unknown_key
from edgehost.manifest.toml_file import read_toml

_BROKER_FILES = ("password_file", "ca_file", "cert_file", "key_file")
_NAMED = ("brokers", "serial", "secrets")
_SECRET_FILES = ("password_file", "key_file")
_URL_FORM = "mqtt://host[:1883] or mqtts://host[:8883]"
_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)


class Agent(Struct, frozen=True, forbid_unknown_fields=True):
    """`[agent]`: what this agent runs and where it is spoken to."""

    functions: tuple[str, ...] = ()
    socket: str = ""
    state: str = ""
    profile: str = ""


def read_config(path: Path) -> Config:
    """The Config an edgehost.toml says, with every path in it absolute.

    Raises ConfigError: one line with file, key, value and what is allowed. What is only unwise is one line in `Config.warnings`.
    """
    table = read_toml(path, str(path), ConfigError)
    place = toml_place(str(path))
    try:
        return _config(table, path)
    except Mistake as mistake:
        raise ConfigError(f"{place(mistake.path)}: {mistake.text}") from None


def _config(table: Mapping[str, Any], source: Path) -> Config:
    known = ("agent", "brokers", "serial", "gpio", "secrets", "http", "journal", "disk", "log")
    unknown = next((key for key in table if key not in known), None)
    if unknown is not None:
        raise unknown_key((unknown,), known)
    folder = source.parent.resolve()
    agent = to_struct(_table(table, "agent"), Agent, ("agent",))
    brokers = {name: _broker(name, broker, folder) for name, broker in _table(table, "brokers").items()}
    ports = {
        name: to_struct(_named(name, port, ("serial", name)), SerialPort, ("serial", name))
        for name, port in _table(table, "serial").items()
    }
    http = to_struct(_table(table, "http"), Http, ("http",))
    _check_listen(http.listen)
    return Config(
        source=source.resolve(),
        functions=_functions(agent.functions, folder),
        socket=_socket(agent.socket, folder),
        state=_path(agent.state, folder, ("agent", "state")) if agent.state else None,
        brokers=brokers,
        serial=ports,
        gpio=to_struct(_table(table, "gpio"), Gpio, ("gpio",)),
        profile=_profile(agent.profile, folder),
        secrets={name: _secret(name, secret, folder) for name, secret in _table(table, "secrets").items()},
        http=http,
        journal=to_struct(_table(table, "journal"), Journal, ("journal",)),
        disk=to_struct(_table(table, "disk"), Disk, ("disk",)),
        log=to_struct(_table(table, "log"), Log, ("log",)),
        warnings=tuple(warning for name in brokers for warning in _exposed(name, brokers[name], source)),
    )


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, Mapping):
        raise not_allowed((key,), value, f"a table [{key}.NAME]" if key in _NAMED else f"a table [{key}]")
    return value


def _functions(names: tuple[str, ...], folder: Path) -> tuple[Path, ...]:
    """The folders as paths. Whether one holds a function is not asked here: one that is gone must not stop the others."""
    paths = tuple(_path(name, folder, ("agent", "functions", index)) for index, name in enumerate(names))
    for index, path in enumerate(paths):
        if path in paths[:index]:
            raise Mistake(("agent", "functions", index), f"{show(names[index])} is given twice; keep one")
    return paths


def _profile(name: str, folder: Path) -> str:
    """A shipped profile's name as it is, a path to one's own made absolute."""
    return str(_path(name, folder, ("agent", "profile"))) if "/" in name or name.endswith(".toml") else name


def _socket(name: str, folder: Path) -> Path | None:
    """A Unix socket's address holds 107 bytes and a NUL (unix(7))."""
    if not name:
        return None
    path = _path(name, folder, ("agent", "socket"))
    if len(os.fsencode(path)) > 107:
        raise Mistake(("agent", "socket"), f"{path} is longer than the 107 bytes a Unix socket may have; use a shorter path")
    return path


def _broker(name: str, value: Any, folder: Path) -> Broker:
    place = ("brokers", name)
    broker = to_struct(_named(name, value, place), Broker, place)
    _check_url(broker.url, (*place, "url"))
    if broker.password_file and broker.password_env:
        raise Mistake((*place, "password_env"), "password_file is given too; keep one of the two")
    if broker.key_file and not broker.cert_file:
        raise Mistake((*place, "cert_file"), "missing; key_file is the key of a certificate")
    files = {key: _readable(getattr(broker, key), folder, (*place, key)) for key in _BROKER_FILES if getattr(broker, key)}
    return replace(broker, **files)


def _secret(name: str, value: Any, folder: Path) -> Secret:
    """Whether its file can be read is asked when a worker needs it: it may come later, and must not stop the others."""
    place = ("secrets", name)
    secret = to_struct(_named(name, value, place), Secret, place)
    return replace(secret, file=str(_path(secret.file, folder, (*place, "file"))) if secret.file else "")


def _named(name: str, value: Any, place: tuple[str, ...]) -> Mapping[str, Any]:
    """The table under a name that functions use."""
    if not _NAME.fullmatch(name):
        raise Mistake((*place, ""), "cannot be a name; use up to 63 letters, digits, -, _ and ., no sign first or last")
    if not isinstance(value, Mapping):
        raise not_allowed(place, value, "a table")
    return value


def _check_url(url: str, place: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise not_allowed(place, url, _URL_FORM) from None
    if parts.username is not None or parts.password is not None:
        raise Mistake(place, "holds a user name; write username and password_file instead, so that no log shows the password")
    rest = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in ("mqtt", "mqtts") or not host or port == 0 or rest or any(c.isspace() for c in url):
        raise not_allowed(place, url, _URL_FORM)


def _check_listen(listen: str) -> None:
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    known = bool(host) and (bracketed or ":" not in host) and not any(c.isspace() or c == "/" for c in host)
    if not colon or not known or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
        raise not_allowed(("http", "listen"), listen, 'HOST:PORT, as in "127.0.0.1:8080", "0.0.0.0:80" or "[::1]:8080"')


def _readable(name: str, folder: Path, place: tuple[str, ...]) -> str:
    """The absolute path of a file that can be read."""
    path = _path(name, folder, place)
    try:
        path.open("rb").close()
    except OSError as error:
        raise Mistake(place, f"{show(name)} cannot be read: {error.strerror}: {path}") from None
    return str(path)


def _path(name: str, folder: Path, place: tuple[str | int, ...]) -> Path:
    if not name or "\0" in name:
        raise not_allowed(place, name, "a path")
    try:
        return Path(os.path.normpath(folder / Path(name).expanduser()))
    except RuntimeError as error:
        raise Mistake(place, f"{show(name)} is not a path: {error}") from None


def _exposed(name: str, broker: Broker, source: Path) -> list[str]:
    """Warnings for secrets that other users of this machine can read."""
    place = toml_place(str(source))
    files = {key: Path(getattr(broker, key)) for key in _SECRET_FILES if getattr(broker, key)}
    return [
        f"{place(('brokers', name, key))}: {path} can be read by every user of this machine; chmod 600 {path}"
        for key, path in files.items()
        if path.stat().st_mode & stat.S_IROTH
    ]
