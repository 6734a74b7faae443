"""A lean MQTT 3.1.1 load generator, a process of its own: `python -m tools.benches.mqtt_load PORT TO FROM QOS IN_FLIGHT S`.

Closed loop on one blocking socket: `IN_FLIGHT` messages are on their way at any time, each that comes back sends the next. Its
payload carries the time it was sent. Prints one JSON object; knows nothing of edgehost.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from time import perf_counter, perf_counter_ns

WARM_UP_S = 0.5
PROBE_S = 0.2
PATIENCE_S = 30.0
PAYLOAD_BYTES = 100
PUBLISH, PUBACK, SUBACK = 0x30, 0x40, 0x90
_STAMP = struct.Struct(">Q")
_FILL = b"x" * (PAYLOAD_BYTES - _STAMP.size)


def text(value: str) -> bytes:
    """A string with its length (MQTT 3.1.1, 1.5.3)."""
    return struct.pack(">H", len(value)) + value.encode()


def packet(first: int, body: bytes) -> bytes:
    """A packet of up to 16383 bytes."""
    size = len(body)
    return bytes((first, size) if size < 128 else (first, size & 127 | 128, size >> 7)) + body


class Load:
    """One connection that publishes to one topic and counts what comes back on another."""

    def __init__(self, port: int, to: str, come_back: str, qos: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._qos = qos
        self._head = text(to)
        self._next_id = 0
        self._rest = b""
        name = f"load-{to}-{qos}-{perf_counter_ns()}"
        self._socket.sendall(packet(0x10, text("MQTT") + bytes((4, 2, 0, 0)) + text(name)))
        self._socket.sendall(packet(0x82, b"\0\1" + text(come_back) + bytes((qos,))))
        self._wait_for(SUBACK)

    def probe(self) -> None:
        """Send single messages until one comes back: the other side listens."""
        deadline = perf_counter() + PATIENCE_S
        self._socket.settimeout(PROBE_S)
        while perf_counter() < deadline:
            self._socket.sendall(self._message(0))
            try:
                while not self._receive():
                    pass
            except TimeoutError:
                continue
            self._drain()
            return
        raise SystemExit("nothing came back: does the agent run, and does it answer to this topic?")

    def run(self, in_flight: int, seconds: float) -> dict[str, float]:
        """Keep `in_flight` messages on their way for so long; the figures, and `total` with the warm-up counted in."""
        self._socket.sendall(b"".join(self._message(perf_counter_ns()) for _ in range(in_flight)))
        total = 0
        latencies: list[int] = []
        began = perf_counter()
        measured_from = began + WARM_UP_S
        end = measured_from + seconds
        while (now := perf_counter()) < end:
            stamps = self._receive()
            stamp = perf_counter_ns()
            total += len(stamps)
            if stamps:
                self._socket.sendall(b"".join([self._message(stamp) for _ in stamps]))
                if now >= measured_from:
                    latencies += [stamp - sent for sent in stamps]
        self._drain()
        latencies.sort()
        elapsed = perf_counter() - measured_from
        quantile = {name: latencies[int(q * len(latencies))] / 1e3 for name, q in (("p50_us", 0.5), ("p99_us", 0.99))}
        return {"per_s": len(latencies) / min(elapsed, seconds), "total": total, **quantile}

    def _message(self, stamp: int) -> bytes:
        if not self._qos:
            return packet(PUBLISH, self._head + _STAMP.pack(stamp) + _FILL)
        self._next_id = self._next_id % 65535 + 1
        return packet(PUBLISH | 2, self._head + self._next_id.to_bytes(2, "big") + _STAMP.pack(stamp) + _FILL)

    def _wait_for(self, kind: int) -> None:
        while True:
            self._rest += self._socket.recv(65536)
            position = 0
            while position + 2 <= len(self._rest):
                found = self._rest[position] & 0xF0
                position += 2 + self._rest[position + 1]
                if found == kind and position <= len(self._rest):
                    self._rest = self._rest[position:]
                    return

    def _drain(self) -> None:
        """Take what is still under way, so that it is not counted by the next run."""
        self._socket.settimeout(PROBE_S)
        try:
            while True:
                self._receive()
        except TimeoutError:
            self._socket.settimeout(PATIENCE_S)

    def _receive(self) -> list[int]:
        """The send times of the messages in the next bytes; those of QoS 1 are acknowledged."""
        data = self._rest + self._socket.recv(65536)
        size, position = len(data), 0
        stamps, acknowledgements = [], []
        while position + 2 <= size:
            length, start = data[position + 1], position + 2
            if length > 127:
                if start >= size:
                    break
                length, start = length & 127 | data[start] << 7, start + 1
            end = start + length
            if end > size:
                break
            first = data[position]
            if first & 0xF0 == PUBLISH:
                stamps.append(_STAMP.unpack_from(data, end - PAYLOAD_BYTES)[0])
                if first & 2:
                    at = end - PAYLOAD_BYTES - 2
                    acknowledgements.append(b"\x40\x02" + data[at : at + 2])
            position = end
        self._rest = data[position:]
        if acknowledgements:
            self._socket.sendall(b"".join(acknowledgements))
        return stamps


def main() -> None:
    """See the module."""
    port, to, come_back, qos, in_flight, seconds = sys.argv[1:]
    load = Load(int(port), to, come_back, int(qos))
    load.probe()
    print(json.dumps(load.run(int(in_flight), float(seconds))))


if __name__ == "__main__":
    main()
