"""The private names of paho-mqtt we build on: if a new version changes one, this fails before anything else does."""

from __future__ import annotations

import inspect
import socket
import time
from collections.abc import Iterator
from typing import Any

import paho.mqtt.client as paho
import pytest

from edgehost.config import Broker
from edgehost.mqtt.endpoint import parse_url
from edgehost.mqtt.exchanges import PacketIds
from edgehost.mqtt.paho_client import PahoClient, Wire


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


class Opened:
    """A client of ours that has written its CONNECT to a socket nobody answers on."""

    def __init__(self, listener: socket.socket) -> None:
        self.written: list[bytes] = []
        self.ids = PacketIds()
        broker = Broker(url=f"mqtt://127.0.0.1:{listener.getsockname()[1]}")
        self.client = PahoClient(broker, "name", self.ids.take, self.written.append, lambda: None)
        self.client.open(broker, parse_url(broker.url))
        wire: Any = self.client.socket()
        self.wire: Wire = wire


@pytest.fixture
def opened(listener: socket.socket) -> Iterator[Opened]:
    one = Opened(listener)
    yield one
    one.wire.raw.close()


def test_the_socket_is_made_where_we_can_put_ours_between(opened: Opened) -> None:
    assert isinstance(opened.wire, Wire)
    assert opened.wire.raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert opened.written[0][0] == 0x10  # CONNECT went our way


def test_packet_ids_come_from_our_one_set(opened: Opened) -> None:
    taken = opened.ids.take()
    _, packet_id = opened.client.subscribe("a")
    _, other = opened.client.unsubscribe("a")
    assert [packet_id, other] == [taken + 1, taken + 2]


def test_paho_reads_only_what_is_given_to_it(opened: Opened) -> None:
    connected: list[bool] = []
    opened.client.on_connect = lambda _client, _data, _flags, reason, _properties: connected.append(not reason.is_failure)
    opened.client.loop_read()
    assert connected == []
    opened.wire.inbox = b"\x20\x03\x00\x00\x00"
    opened.client.loop_read()
    assert connected == [True] and opened.wire.inbox == b""


def test_its_keep_alive_sends_a_ping_and_counts_what_we_heard(opened: Opened) -> None:
    client: Any = opened.client
    opened.wire.inbox = b"\x20\x03\x00\x00\x00"
    client.loop_read()
    client._last_bytes_received = client._last_msg_out = time.monotonic() - 31
    client.loop_misc()
    assert opened.written[-1] == b"\xc0\x00"
    client._last_bytes_received = 0.0
    client.heard()
    assert time.monotonic() - client._last_bytes_received < 5
    assert "_last_bytes_received" in inspect.getsource(paho.Client._check_keepalive)


def test_the_names_are_still_there() -> None:
    for name in ("_create_socket", "_mid_generate"):
        assert callable(getattr(paho.Client, name))
    assert "self._mid_generate()" in inspect.getsource(paho.Client._send_subscribe)
    assert "self._create_socket()" in inspect.getsource(paho.Client.reconnect)


def test_one_that_is_not_read_pings_and_waits_for_no_answer(opened: Opened) -> None:
    client: Any = opened.client
    opened.wire.inbox = b"\x20\x03\x00\x00\x00"
    client.loop_read()
    before = len(opened.written)
    for _ in range(3):
        client._last_bytes_received = client._last_msg_out = time.monotonic() - 31
        client.deaf()
        client.loop_misc()
    assert opened.written[before:] == 3 * [b"\xc0\x00"] and client.is_connected()
