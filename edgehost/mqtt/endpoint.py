"""Where a broker is and how it is entered: address, password, certificates, and the thread in which connecting may block."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from edgehost.config import Broker
from edgehost.errors import TriggerError


class Address(Struct, frozen=True):
    """Where a broker listens."""

    host: str
    port: int
    tls: bool


def parse_url(url: str) -> Address:
    """`mqtt://host[:1883]` or `mqtts://host[:8883]`; TriggerError for anything else."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise TriggerError(f"{url!r} is not the URL of a broker: {error}") from error
    if parts.scheme not in ("mqtt", "mqtts") or not host or parts.path.strip("/") or parts.username or parts.password:
        raise TriggerError(
            f"{url!r} is not the URL of a broker; write mqtt://host[:1883] or mqtts://host[:8883], "
            "and give user name and password in [brokers.NAME] of edgehost.toml"
        )
    tls = parts.scheme == "mqtts"
    return Address(host, port or (8883 if tls else 1883), tls)


def read_password(broker: Broker) -> str | None:
    """The password from its file or the environment; TriggerError when it is named and not there."""
    if broker.password_file:
        try:
            return Path(broker.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise TriggerError(f"password_file {broker.password_file!r} cannot be read: {error.strerror}") from error
    if broker.password_env:
        try:
            return os.environ[broker.password_env]
        except KeyError:
            raise TriggerError(f"password_env {broker.password_env!r} is not set in the agent's environment") from None
    return None


def tls_context(broker: Broker) -> ssl.SSLContext:
    """The TLS settings of a broker; read anew for every connection, so renewed certificates need no restart."""
    try:
        context = ssl.create_default_context(cafile=broker.ca_file or None)
        if broker.cert_file:
            context.load_cert_chain(broker.cert_file, broker.key_file or None)
    except OSError as error:  # an SSLError is one
        files = ", ".join(repr(file) for file in (broker.ca_file, broker.cert_file, broker.key_file) if file)
        raise TriggerError(f"the certificate files {files} cannot be used: {error}") from error
    # From Python 3.13 on the default refuses the many home-made authorities without a key usage (RFC 5280, 4.2.1.3). The chain
    # and the name are checked all the same, and alike on every Python.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if broker.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def client_id(name: str, broker: Broker) -> str:
    """The client id of the session for the broker called `name`: its own, or one that stays the same on this device."""
    if broker.client_id:
        return broker.client_id
    own = f"edgehost-{socket.gethostname()}"
    # Two entries may lead to one broker, which lets only one of two equal client ids stay.
    return own if name == "default" else f"{own}-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}"


def in_thread(work: Callable[[], None], loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """Run blocking `work` in a thread of its own: a daemon, so a name server that hangs never keeps the agent from ending."""
    future: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def run() -> None:
        error: Exception | None = None
        try:
            work()
        except Exception as caught:
            # Its traceback would keep the socket of a failed handshake open until the next garbage collection.
            error = caught.with_traceback(None)
        try:
            loop.call_soon_threadsafe(settle, error)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    threading.Thread(target=run, name="mqtt-connect", daemon=True).start()
    return future
