"""Floods: as many messages as a bench asks for, as fast as the other side takes them. Knows nothing of edgehost.

MQTT 3.1.1 and HTTP/1.1 by hand, as in mqtt_load.py and http_load.py: a million messages leave no time for a library.
"""

from __future__ import annotations

import select
import socket
from collections import Counter

from tools.benches.http_load import request
from tools.benches.mqtt_load import PUBACK, PUBLISH, packet, text

BODY = b"x" * 100
_BURST = 500
_CONNACK_BYTES, _PUBACK_BYTES = 4, 4
_PATIENCE_S = 120.0


def mqtt(port: int, topic: str, qos: int, count: int) -> int:
    """Publish `count` messages; gives how many the broker is known to have: those it acknowledged, at QoS 0 all it has read."""
    with _connected(port, f"flood-{topic}") as sock:
        left = count
        while left:
            burst = min(_BURST, left)
            sock.sendall(b"".join([publish(topic, qos, number + 1) for number in range(burst)]))
            if qos:
                _read(sock, burst * _PUBACK_BYTES, PUBACK)
            left -= burst
        # A QoS 1 message behind the others: once it is acknowledged, all before it have been read.
        if not qos:
            sock.sendall(publish(f"{topic}/end", 1, 1))
            _read(sock, _PUBACK_BYTES, PUBACK)
    return count


def _connected(port: int, name: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), _PATIENCE_S)
    sock.sendall(packet(0x10, text("MQTT") + bytes((4, 2, 0, 0)) + text(name)))
    _read(sock, _CONNACK_BYTES, 0x20)
    return sock


def publish(topic: str, qos: int, number: int) -> bytes:
    """One message; `number` is its packet identifier at QoS 1."""
    return packet(PUBLISH | qos << 1, text(topic) + (number.to_bytes(2, "big") if qos else b"") + BODY)


def _read(sock: socket.socket, size: int, kind: int) -> None:
    """So many bytes of packets of one kind, all of four bytes."""
    got = b""
    while len(got) < size:
        piece = sock.recv(size - len(got))
        if not piece:
            raise RuntimeError("the broker closed the connection")
        got += piece
    if any(first != kind for first in got[::4]):
        raise RuntimeError(f"not only {kind:#x}: {got[:40].hex()}")


def http(port: int, path: str, count: int, connections: int) -> Counter[int]:
    """Post `count` requests; how many were answered with each status."""
    message = request(path, BODY)
    sockets = {sock.fileno(): sock for sock in (_ready(port) for _ in range(connections))}
    poll = select.epoll()
    statuses: Counter[int] = Counter()
    waiting = dict.fromkeys(sockets, b"")
    sent = 0
    for descriptor, sock in sockets.items():
        poll.register(descriptor, select.EPOLLIN)
        sock.sendall(message)
        sent += 1
    while statuses.total() < sent:
        for descriptor, _ in poll.poll(_PATIENCE_S):
            sock = sockets[descriptor]
            status, waiting[descriptor] = answer(waiting[descriptor] + sock.recv(65536))
            if status:
                statuses[status] += 1
                if sent < count:
                    sock.sendall(message)
                    sent += 1
    for sock in sockets.values():
        sock.close()
    return statuses


def _ready(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), _PATIENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def answer(data: bytes) -> tuple[int, bytes]:
    """The status of the answer at the start of `data` and what follows it; 0 while it is not whole."""
    if not data:
        raise RuntimeError("the server closed the connection")
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return 0, data
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    size = int(fields.get(b"content-length", b"0"))
    return (0, data) if len(rest) < size else (int(head.split(b" ", 2)[1]), rest[size:])
