"""The probe tells a broker that welcomes us from one that refuses, hangs up, is silent or is none, and takes over no session."""

from __future__ import annotations

import socket
import subprocess
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.cli.broker_probe import connack_code, connect_packet, probe
from edgehost.config import Broker

MOSQUITTO = """listener {port} 127.0.0.1
allow_anonymous {anonymous}
password_file {passwords}
"""


def test_connect_packets_are_what_the_standard_says():
    assert connect_packet("c", "5", None, None) == b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x0a\x00\x00\x01c"
    assert connect_packet("c", "3.1.1", "u", "p") == b"\x10\x13\x00\x04MQTT\x04\xc2\x00\x0a\x00\x01c\x00\x01u\x00\x01p"


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (b"\x20\x03\x00\x00\x00", 0),
        (b"\x20\x02\x00\x00", 0),
        (b"\x20\x02\x00\x05", 0x87),
        (b"\x20\x02\x00\x01", 0x84),
        (b"\x20\x03\x00\x86\x00", 0x86),
    ],
)
def test_both_versions_codes_are_understood(packet, code):
    assert connack_code(packet) == code


@given(st.binary(max_size=8))
def test_other_bytes_are_no_connack(data):
    if len(data) >= 4 and data[0] == 0x20:
        return
    with pytest.raises(ValueError, match="does not speak MQTT"):
        connack_code(data)


@pytest.fixture
def listener():
    """`listener(b"...")`: a port whose one visitor is answered with these bytes; None says nothing and keeps the line open."""
    sockets, threads = [], []

    def make(answer: bytes | None) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        sockets.append(server)

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(1000)
                if answer is not None:
                    peer.sendall(answer)
                    return
                peer.recv(1000)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return server.getsockname()[1]

    yield make
    for thread in threads:
        thread.join(20)
    for server in sockets:
        server.close()


@pytest.mark.parametrize(
    ("answer", "timeout_s", "message"),
    [
        (b"\x20\x03\x00\x00\x00", 20, ""),
        (b"HTTP/1.1 400 Bad Request\r\n", 20, "does not speak MQTT"),
        (b"", 20, "hung up on our CONNECT"),
        (b"\x20\x03\x00\x87\x00", 20, "refused us: not authorized (0x87)"),
        (b"\x20\x03\x00\x77\x00", 20, "refused us: unknown reason (0x77)"),
        (None, 0.2, "did not answer in time"),
    ],
)
def test_what_a_listener_says(listener, answer, timeout_s, message):
    problem = probe(Broker(f"mqtt://127.0.0.1:{listener(answer)}"), timeout_s)
    assert message in problem and bool(message) == bool(problem)


def test_nobody_there_and_no_url(free_port):
    assert "nothing listens there" in probe(Broker(f"mqtt://127.0.0.1:{free_port()}"), 5)
    assert "is not the URL of a broker" in probe(Broker("amqp://b"), 5)
    assert "password_env 'EH_NOT_SET' is not set" in probe(Broker("mqtt://127.0.0.1", password_env="EH_NOT_SET"), 5)


@pytest.mark.needs("mosquitto", "mosquitto_passwd")
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_real_broker_lets_in_who_knows_the_password(component, free_port, tmp_path, version):
    port, secret = free_port(), tmp_path / "secret"
    secret.write_text("pw\n")
    passwords = tmp_path / "passwords"
    subprocess.run([component("mosquitto_passwd"), "-c", "-b", str(passwords), "me", "pw"], check=True, capture_output=True)
    passwords.chmod(0o644)
    tmp_path.chmod(0o755)
    config = tmp_path / "mosquitto.conf"
    config.write_text(MOSQUITTO.format(port=port, anonymous="false", passwords=passwords) + "user root\n")
    broker = subprocess.Popen([component("mosquitto"), "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_listening(port)
        url = f"mqtt://127.0.0.1:{port}"
        assert probe(Broker(url, version=version, username="me", password_file=str(secret)), 10) == ""
        assert "(0x8" in probe(Broker(url, version=version), 10)
        secret.write_text("wrong")
        refused = probe(Broker(url, version=version, username="me", password_file=str(secret)), 10)
        assert f"the broker at {url} refused us" in refused
    finally:
        broker.terminate()
        broker.wait(20)


def until_listening(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
