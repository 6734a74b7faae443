"""TLS with a real mosquitto: certificates made by openssl for each run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.needs("mosquitto", "openssl"), pytest.mark.usefixtures("whole_again")]


@dataclass(frozen=True)
class Certificates:
    """File names: an authority, a server's and a client's pair."""

    ca: str
    server_cert: str
    server_key: str
    client_cert: str
    client_key: str


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    # No key usage, as in many a home-made authority.
    authority = ["-addext", "basicConstraints=critical,CA:TRUE", "-keyout", "ca.key", "-out", "ca.crt"]
    openssl("req", "-x509", *key, "-days", "2", "-subj", "/CN=test CA", *authority)
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san"]
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.crt")
    for file in folder.iterdir():
        file.chmod(0o644)
    names = ("ca.crt", "server.crt", "server.key", "client.crt", "client.key")
    return Certificates(*(str(folder / name) for name in names))


@pytest.fixture
def secure(mosquitto: Callable[..., object], certificates: Certificates) -> Callable[[bool], str]:
    """`secure(client_certificate)`: the URL of a broker with TLS."""

    def start(client_certificate: bool) -> str:
        tls = certificates
        listener = f"cafile {tls.ca}\ncertfile {tls.server_cert}\nkeyfile {tls.server_key}\n"
        broker = mosquitto("allow_anonymous true", f"{listener}require_certificate {str(client_certificate).lower()}")
        return str(broker.url).replace("mqtt://127.0.0.1", "mqtts://localhost")

    return start


async def test_fifty_messages_in_one_burst_all_arrive(secure, session, inbox, until, peer, certificates):
    url = secure(False)
    one = await session(url, ca_file=certificates.ca)
    got = inbox(one)
    await one.subscribe("burst", 1, got)
    other = peer(url, ca_certs=certificates.ca)
    for number in range(50):
        other.client.publish("burst", b"%d" % number, 1)
    await until(lambda: len(got.messages) == 50)
    assert got.payloads == [b"%d" % number for number in range(50)]


async def test_large_and_many_messages_pass_both_ways(secure, session, inbox, until, certificates):
    one = await session(secure(False), ca_file=certificates.ca)
    got = inbox(one)
    await one.subscribe("t", 0, got)
    for number in range(500):
        one.publish("t", b"%d" % number * 100)
    await one.publish("t", b"x" * 2_000_000, 1)
    await until(lambda: len(got.messages) == 501)
    assert got.payloads[:500] == [b"%d" % number * 100 for number in range(500)]


async def test_a_client_certificate_opens_the_door(secure, session, inbox, until, certificates):
    tls = certificates
    one = await session(secure(True), ca_file=tls.ca, cert_file=tls.client_cert, key_file=tls.client_key)
    got = inbox(one)
    await one.subscribe("t", 1, got)
    await one.publish("t", b"hello", 1)
    await until(lambda: got.messages)


async def test_without_a_client_certificate_the_reason_is_told(secure, session, until, certificates):
    one = await session(secure(True), wait=False, ca_file=certificates.ca)
    await until(lambda: one.reason)
    assert "if it wants a client certificate, give cert_file and key_file" in one.reason


async def test_a_broker_we_do_not_trust_is_not_spoken_to(secure, session, until):
    one = await session(secure(False), wait=False)
    await until(lambda: one.reason)
    assert "a certificate we do not trust" in one.reason and "ca_file" in one.reason


async def test_insecure_trusts_everybody(secure, session):
    await session(secure(False), insecure=True)


async def test_certificate_files_that_are_not_there_are_told(secure, session, until, tmp_path: Path):
    one = await session(secure(False), wait=False, ca_file=str(tmp_path / "nowhere.crt"))
    await until(lambda: one.reason)
    assert "nowhere.crt" in one.reason and "cannot be used" in one.reason
