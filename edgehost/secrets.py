"""Secrets of functions: who may have which, where they lie, and their values, read anew for every worker that starts.

A value is in the agent only between its file and the worker's descriptor. No message here shows one. Knows files and grants; must
not know how a value comes to its worker.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from edgehost.config import Config, Secret
from edgehost.errors import ManifestError, StartError

MOST_BYTES = 1024 * 1024
"""As for systemd's credentials (systemd.exec(5))."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_granted(function: str, names: Iterable[str], secrets: Mapping[str, Secret]) -> None:
    """Raise ManifestError if a secret that the function's manifest names is not there, or is not for it."""
    for name in names:
        if name not in secrets:
            raise ManifestError(
                f"secrets: {name!r} is not in edgehost.toml (it has: {', '.join(secrets) or 'none'}); "
                f'add [secrets.{name}] with file or credential, and functions = ["{function}"]'
            )
        if function not in secrets[name].functions:
            raise ManifestError(
                f"secrets: {name!r} is not for the function {function!r}; add it to [secrets.{name}].functions in edgehost.toml"
            )


def packed(names: Iterable[str], secrets: Mapping[str, Secret]) -> bytes:
    """The values of these secrets as msgpack, a map of text or bytes. Raises StartError."""
    return msgspec.msgpack.encode({name: as_text(_read(name, secrets[name])) for name in names})


def as_text(value: bytes) -> str | bytes:
    """Text without the line end an editor leaves; bytes as they are where they are no UTF-8."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value
    return text[:-1].removesuffix("\r") if text.endswith("\n") else text


def _read(name: str, secret: Secret) -> bytes:
    path = place(secret)
    if path is None:
        raise StartError(
            f"secrets.{name}: there is no credential {secret.credential!r}: $CREDENTIALS_DIRECTORY is not set; "
            f"start the agent by systemd with LoadCredential={secret.credential}:PATH, or use file"
        )
    try:
        # A FIFO must not make the agent wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise StartError(f"secrets.{name}: {path} cannot be read: {error.strerror}") from None
    try:
        if trouble := _unfit(os.fstat(descriptor), secret):
            raise StartError(f"secrets.{name}: {path} {trouble}")
        return os.read(descriptor, MOST_BYTES)
    finally:
        os.close(descriptor)


def _unfit(status: os.stat_result, secret: Secret) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "is no file"
    if status.st_size > MOST_BYTES:
        return f"has {status.st_size} bytes; {MOST_BYTES} are the most"
    # Who may read a credential is systemd's to say, and an access list shows as rights of the group.
    return exposed(status, os.geteuid()) if secret.file else ""


def exposed(status: os.stat_result, uid: int) -> str:
    """Why a file with this status is no place for a secret of this user's; '' if it is one."""
    if status.st_uid not in (uid, 0):
        return f"belongs to user {status.st_uid}; chown it to root or to the user the agent runs as"
    if status.st_mode & _OTHERS:
        return f"has mode {stat.S_IMODE(status.st_mode):04o}, so others may read or change it; chmod 600 it"
    return ""


def place(secret: Secret) -> Path | None:
    """The file that holds it; None for a credential where systemd gave none."""
    if secret.file:
        return Path(secret.file)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) / secret.credential if folder else None


def private_files(config: Config) -> frozenset[Path]:
    """What no function may read, whatever else it may: the files of all secrets and of the brokers' passwords and keys."""
    files = [secret.file for secret in config.secrets.values()]
    files += [file for broker in config.brokers.values() for file in (broker.password_file, broker.key_file)]
    files.append(os.environ.get("CREDENTIALS_DIRECTORY", ""))
    return frozenset(Path(file) for file in files if file)
