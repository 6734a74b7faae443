"""What the agent and a zygote say to each other over their control socket (SOCK_SEQPACKET, one msgpack message a packet).

    agent -> zygote   Fork, with descriptors: channel, inbound memfd, outbound memfd, output pipe, and secrets if it has any
    zygote -> agent   Forked, with the worker's pidfd | Ended

Both sides import this and nothing of each other.
"""

from __future__ import annotations

import msgspec

from edgehost.engine.spec import WorkerSpec

DESCRIPTORS_MAX = 5
MESSAGE_MAX = 128 * 1024
"""Bytes of one message: under the smallest socket buffer a kernel gives, so that a packet always fits."""


class Fork(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Fork a worker. `ticket` comes back in the answer."""

    ticket: int
    spec: WorkerSpec


class Forked(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The worker runs as `pid`, or (pid 0) could not be forked for `reason`."""

    ticket: int
    pid: int
    reason: str = ""


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A worker ended: `status` as waitpid(2) gives it; `left` processes of it were ended too."""

    pid: int
    status: int
    left: int


encode = msgspec.msgpack.encode
decode_fork = msgspec.msgpack.Decoder(Fork).decode
decode_report = msgspec.msgpack.Decoder(Forked | Ended).decode
