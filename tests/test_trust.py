"""Certificates that real TLS handshakes refuse, and what is said of them."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edgehost.trust import distrust

NOW = datetime(1970, 1, 2, 3, 4)
Refusal = Callable[[int, int, str], ssl.SSLCertVerificationError]


@pytest.fixture
def refusal(tmp_path: Path, component: Callable[[str], str]) -> Refusal:
    """`refusal(first, last, name)`: what a client that asks for localhost says to a certificate for `name`, valid from the day
    `first` to the day `last`, counted from today."""

    def handshake(first: int, last: int, name: str) -> ssl.SSLCertVerificationError:
        certify(tmp_path, component("openssl"), first, last, name)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        client = ssl.create_default_context(cafile=tmp_path / "cert.pem" if name else None)
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=serve, args=(server, theirs))
        thread.start()
        try:
            with ours, pytest.raises(ssl.SSLCertVerificationError) as caught:
                client.wrap_socket(ours, server_hostname="localhost")
        finally:
            thread.join()
        return caught.value

    return handshake


def certify(folder: Path, openssl: str, first: int, last: int, name: str) -> None:
    def day(days: int) -> str:
        return f"{datetime.now(timezone.utc) + timedelta(days=days):%Y%m%d%H%M%SZ}"

    names = f"subjectAltName=DNS:{name or 'localhost'}"
    key = ["-newkey", "ed25519", "-nodes", "-keyout", "key.pem"]
    ask = [openssl, "req", "-new", *key, "-subj", "/CN=x", "-addext", names, "-out", "ask.pem"]
    subprocess.run(ask, cwd=folder, check=True, capture_output=True)
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca=x\n[x]\nnew_certs_dir=.\ndatabase=index\nserial=serial\ndefault_md=default\npolicy=p\n"
        "copy_extensions=copy\nunique_subject=no\n[p]\ncommonName=supplied\n"
    )
    (folder / "index").write_text("")
    (folder / "serial").write_text("01")
    dates = ["-startdate", day(first), "-enddate", day(last)]
    sign = [openssl, "ca", "-batch", "-selfsign", "-config", "ca.cnf", "-keyfile", "key.pem"]
    subprocess.run([*sign, "-in", "ask.pem", "-out", "cert.pem", *dates], cwd=folder, check=True, capture_output=True)


def serve(context: ssl.SSLContext, sock: socket.socket) -> None:
    with sock:
        try:
            context.wrap_socket(sock, server_side=True)
        except (ssl.SSLError, OSError):
            pass  # it is refused


@pytest.mark.needs("openssl")
@pytest.mark.parametrize(
    ("first", "last", "name", "said"),
    [
        (5, 9, "localhost", "certificate is not yet valid, by this device's clock (1970-01-02 03:04); set the clock"),
        (-9, -5, "localhost", "certificate has expired, by this device's clock (1970-01-02 03:04); the server needs a new"),
        (-5, 5, "other.example", "reach it by a name that its certificate has"),
        (-5, 5, "", "name its authority in ca_file"),
    ],
)
def test_each_reason_has_its_remedy(refusal: Refusal, first: int, last: int, name: str, said: str) -> None:
    assert said in distrust(refusal(first, last, name), "ca_file", NOW)
