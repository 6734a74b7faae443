"""A closed-loop HTTP load on raw sockets: each connection sends its next request when it has the whole answer to the last.

As lean as Python goes (one epoll loop, no parsing after the first answer), because it shares two cores with what it measures.
"""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass, field


@dataclass
class Load:
    """What one run saw. Latencies in seconds, in the order the answers came."""

    latencies: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0

    @property
    def per_s(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.elapsed_s

    def quantile_ms(self, q: float) -> float:
        """The q-quantile of the latencies in milliseconds."""
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(q * len(self.latencies)))] * 1e3


def request(path: str, body: bytes) -> bytes:
    """A POST as the bytes of one write."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def drive(port: int, path: str, body: bytes, connections: int, seconds: float) -> Load:
    """Post `body` to `path` on 127.0.0.1 over `connections` for `seconds`. RuntimeError for an answer that is not its echo."""
    message = request(path, body)
    sockets = {sock.fileno(): sock for sock in (_connect(port) for _ in range(connections))}
    try:
        length = max(_first(sock, message, body) for sock in sockets.values())
        return _loop(sockets, message, body, length, seconds)
    finally:
        for sock in sockets.values():
            sock.close()


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _first(sock: socket.socket, message: bytes, body: bytes) -> int:
    """Ask once and read slowly; gives the length every later answer has (the date and all else keep theirs)."""
    sock.sendall(message)
    answer = b""
    while not answer.endswith(body):
        piece = sock.recv(65536)
        if not piece:
            raise RuntimeError(f"not an echo: {answer[:200]!r}")
        answer += piece
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"not an echo: {answer[:200]!r}")
    return len(answer)


def _loop(sockets: dict[int, socket.socket], message: bytes, body: bytes, length: int, seconds: float) -> Load:
    load = Load()
    poll = select.epoll()
    sent: dict[int, float] = {}
    got: dict[int, bytes] = dict.fromkeys(sockets, b"")
    began = time.perf_counter()
    end = began + seconds
    for fd, sock in sockets.items():
        poll.register(fd, select.EPOLLIN)
        sent[fd] = time.perf_counter()
        sock.send(message)
    waiting = len(sockets)
    while waiting:
        for fd, _ in poll.poll(10):
            answer = got[fd] + sockets[fd].recv(65536)
            if len(answer) < length:
                if answer == got[fd]:
                    raise RuntimeError("the server closed a connection")
                got[fd] = answer
                continue
            if len(answer) > length or not answer.endswith(body) or not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"not an echo: {answer[:300]!r}")
            got[fd] = b""
            now = time.perf_counter()
            load.latencies.append(now - sent[fd])
            if now < end:
                sent[fd] = now
                sockets[fd].send(message)
            else:
                waiting -= 1
    load.elapsed_s = time.perf_counter() - began
    poll.close()
    return load
