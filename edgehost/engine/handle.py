"""WorkerHandle: the agent's view of one worker. What it was given, what it may be given more, what it answered, what it had
begun.

    state      until
    starting   READY or FAILED comes, or the process ends
    ready      STOP is sent, or the process ends
    stopping   the process ends
    ended      for ever

Knows frames and calls; must not know queues, policies or how a worker is started again.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Literal

from msgspec.structs import replace

from edgehost.engine import frames
from edgehost.engine.call import FOREVER, Call, Stream
from edgehost.engine.channel import Channel
from edgehost.engine.credit import credit_for
from edgehost.engine.frames import HEADER, INLINE_MAX, encode
from edgehost.engine.host_calls import HostCalls
from edgehost.engine.nursery import Process
from edgehost.engine.owner import Owner
from edgehost.event import Event, Response, failure

_LOOK_S = 0.002
_LOOK_MOST_S = 0.05
_NUMBER = 0xFFFFFFFF


class WorkerHandle:
    """One worker. `pending` maps call numbers to calls in the order they were given; `ready` and `ended` resolve once each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner, worker_id: int, concurrency: int) -> None:
        self._loop = loop
        self._owner = owner
        self._concurrency = concurrency
        self.worker_id = worker_id
        self.state: Literal["starting", "ready", "stopping", "ended"] = "starting"
        self.pending: dict[int, Call] = {}
        self.held: dict[int, Call] = {}
        self.credit = 0
        """How many events it may hold in all; 0 unless it is ready."""
        self.answered = 0
        self.ready: asyncio.Future[str] = loop.create_future()
        """'' when the function is loaded, else why it is not."""
        self.ended: asyncio.Future[str] = loop.create_future()
        self.drained: asyncio.Future[None] = loop.create_future()
        self.channel = Channel(loop, self._receive, self._received, self._broken)
        self._process: Process | None = None
        self._given = 0
        self._recalled_to = 0
        self._look_s = 0.0
        self._seen = 0
        self._unbegun_at_end: list[Call] = []
        self._host_calls = HostCalls(loop, owner, self._reply)
        self._trouble = ""

    def born(self, process: Process) -> None:
        """The process exists: hear of its end."""
        self._process = process
        self.channel.handed_over()
        process.when_ended(self._ended)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def give(self, call: Call) -> None:
        """Send an event to the worker. One that no frame can carry fails."""
        ordinal = self._given + 1
        number = ordinal & _NUMBER
        event = call.event
        at = size = 0
        kind = frames.EVENT
        if type(event) is not Event:
            kind = frames.BATCH
        elif len(event.body) > INLINE_MAX and (at := self.channel.lend(event.body)):
            size = len(event.body)
            call.lent = at
            event = replace(event, body=b"")
        try:
            payload = encode(event)
            frame = HEADER.pack(len(payload), number, at, size, call.deadline, kind) + payload
        except Exception as error:  # a lone surrogate, a number of more than 64 bits, more than 4 GiB
            self._cannot_send(call, error)
            return
        self._given = call.ordinal = ordinal
        self.pending[number] = call
        if len(self.pending) == 1:
            self.channel.send_now(frame)
        else:
            self.channel.send(frame)
        if not self._look_s:
            self._look_s = _LOOK_S
            self._loop.call_later(_LOOK_S, self._look)

    def _cannot_send(self, call: Call, error: Exception) -> None:
        if call.lent:
            self.channel.reclaim(call.lent)
            call.lent = 0
        message = f"the event cannot be sent to a worker: {type(error).__name__}: {error}"
        self._owner.answered(call, failure("raised", message))

    def _look(self) -> None:
        """While events are out: if no answer came since the last look, one may lie finished behind a slow one, or log lines of
        the slow one itself. Read ahead.
        """
        if not self.pending or self.state == "ended":
            self._look_s = 0.0
            return
        if self.answered != self._seen:
            self._seen = self.answered
            self._look_s = _LOOK_S
        elif not self.channel.read_ahead():
            self._look_s = min(_LOOK_MOST_S, self._look_s * 2)
            if self._look_s == _LOOK_MOST_S and self._sits():
                self._owner.stuck(self)
        self._loop.call_later(self._look_s, self._look)

    def _sits(self) -> bool:
        """Whether it is in its oldest event and others wait behind that. (What is still on its way to it is not begun either.)"""
        oldest = next(iter(self.pending.values()))
        return len(self.pending) > 1 and oldest.ordinal <= self.channel.progress().begun

    def recall(self) -> list[Call]:
        """Take back the calls the worker has not begun, in order; it gets no more until it is past them."""
        unbegun = self.unbegun()
        if not unbegun or self._recalled_to or not self.channel.recall(unbegun[0].ordinal, self._given):
            return []
        self._recalled_to = self._given
        self.credit = 0
        unbegun = self.unbegun()
        for call in unbegun:
            self._forget(call)
        return unbegun

    def _forget(self, call: Call) -> None:
        """The call is not this worker's any more."""
        del self.pending[call.ordinal & _NUMBER]
        if call.lent:
            self.channel.reclaim(call.lent)
            call.lent = 0

    def _skipped(self, number: int) -> None:
        """The worker saw the recall when we thought it had begun: the call is still here, and goes to another."""
        if (call := self.pending.get(number)) is not None:
            self._forget(call)
            self._owner.requeue([call])

    def _receive(self, kind: int, number: int, at: int, size: int, payload: memoryview) -> None:
        if kind == frames.ANSWER:
            response = frames.decode_response(payload)
            call = self.pending.pop(number)
            self.answered += 1
            if size:
                response = replace(response, body=self.channel.take_body(at, size))
            if call.lent:
                self.channel.reclaim(call.lent)
            if call.publications:
                self._settle(call, response)
            else:
                self._owner.answered(call, response)
        else:
            self._receive_rare(kind, number, at, size, payload)

    def _receive_rare(self, kind: int, number: int, at: int, size: int, payload: memoryview) -> None:
        if kind == frames.LOG:
            self._owner.log(frames.decode_record(payload))
        elif kind == frames.CHUNK:
            self._chunk(number, frames.decode_chunk(payload))
        elif kind == frames.ANSWERS:
            self._batch_answered(number, frames.decode_responses(payload))
        elif kind == frames.STREAM:
            response = frames.decode_response(payload)
            self._stream(number, replace(response, body=self.channel.take_body(at, size)) if size else response)
        elif kind == frames.END:
            self._stream_ended(number, *frames.decode_end(payload))
        elif kind == frames.ANSWER_HELD:
            response = frames.decode_response(payload)
            self._hold(number, replace(response, body=self.channel.take_body(at, size)) if size else response)
        elif kind == frames.ACK:
            self._acknowledge(number)
        elif kind == frames.CALL:
            self._host_calls.call_function(number, frames.decode_ask(payload))
        elif kind == frames.PUBLISH:
            self._host_calls.publish(self.pending.get(number), frames.decode_publication(payload))
        elif kind == frames.READY:
            if self.state == "starting":
                self.state = "ready"
            self.ready.set_result("")
        elif kind == frames.FAILED:
            self.ready.set_result(frames.decode_text(payload))
        elif kind == frames.SKIPPED:
            self._skipped(number)
        elif kind == frames.DRAINED:
            if not self.drained.done():
                self.drained.set_result(None)
        else:
            raise ValueError(f"{kind} is not a kind of frame")

    def _received(self) -> None:
        """After a burst of frames: how much the worker may hold from now on."""
        progress = self.channel.progress()
        if progress.begun >= self._recalled_to:
            self._recalled_to = 0
        if self.state == "ready" and not self._recalled_to:
            self.credit = credit_for(progress.peak_s) if self._concurrency == 1 else self._concurrency
        self._owner.worker_free()

    def _finish(self, number: int) -> Call:
        call = self.pending.pop(number)
        self.answered += 1
        if call.lent:
            self.channel.reclaim(call.lent)
        return call

    def _batch_answered(self, number: int, responses: list[Response]) -> None:
        call = self._finish(number)

        def settle(lost: str) -> None:
            self._owner.batch_answered(
                call, [failure("raised", lost, each.event_id) for each in responses] if lost else responses
            )

        self._host_calls.when_published(call, settle)

    def _settle(self, call: Call, response: Response) -> None:
        """The answer counts once everything its handler published is safe; if something is not, the event failed."""
        answered = self._owner.answered
        self._host_calls.when_published(call, lambda lost: answered(call, failure("raised", lost) if lost else response))

    def _hold(self, number: int, response: Response) -> None:
        call = self._finish(number)
        if call.acknowledged:
            self._settle(call, response)
        else:
            call.held = response
            call.deadline = FOREVER
            self.held[number] = call

    def _acknowledge(self, number: int) -> None:
        if (call := self.held.pop(number, None)) is not None and call.held is not None:
            self._settle(call, call.held)
        elif (call := self.pending.get(number)) is not None:
            call.acknowledged = True

    def _stream(self, number: int, head: Response) -> None:
        call = self.pending[number]
        call.stream = Stream(lambda count: self._want_more(number, count), lambda: self._cancel(number))
        call.deadline = monotonic() + self._owner.timeout_s
        self._owner.answered(call, replace(head, chunks=call.stream))
        if call.future.cancelled():
            self._cancel(number)

    def _chunk(self, number: int, chunk: bytes) -> None:
        call = self.pending[number]
        assert call.stream is not None
        call.stream.add(chunk)
        # The handler's time-out is for the handler: while the reader is behind, the worker waits for it.
        behind = call.stream.unread >= frames.STREAM_WINDOW // 2
        call.deadline = FOREVER if behind else monotonic() + self._owner.timeout_s

    def _want_more(self, number: int, count: int) -> None:
        if (call := self.pending.get(number)) is not None:
            call.deadline = monotonic() + self._owner.timeout_s
            self.channel.send(frames.frame(frames.MORE, number, encode(count)))

    def _cancel(self, number: int) -> None:
        if number in self.pending and self.state != "ended":
            self.channel.send(frames.frame(frames.CANCEL, number))

    def _stream_ended(self, number: int, reason: str, code: str) -> None:
        call = self._finish(number)
        if call.stream is not None:
            self._host_calls.when_published(call, lambda lost: self._owner.stream_ended(call, reason or lost, code or "raised"))
        else:
            self._settle(call, failure(code, reason))

    def _reply(self, number: int, response: Response) -> None:
        if self.state != "ended":
            self.channel.send(frames.frame(frames.CALL_ANSWER, number, encode(response)))

    def unbegun(self) -> list[Call]:
        """The calls the worker has not begun, in order. After the end `take_lost` gives them."""
        if self.ended.done():
            return []
        begun = self.channel.progress().begun
        return [call for call in self.pending.values() if call.ordinal > begun]

    def overdue(self, now: float, grace_s: float) -> list[Call]:
        """The calls whose deadline passed more than `grace_s` ago though the handler had begun them."""
        if self.ended.done():
            return []
        begun = self.channel.progress().begun
        return [call for call in self.pending.values() if call.ordinal <= begun and call.deadline + grace_s <= now]

    def overdue_unbegun(self, now: float) -> list[Call]:
        """The calls that wait behind others in the worker and whose deadline has passed."""
        return [call for call in self.unbegun() if call.deadline <= now]

    def catch_up(self) -> None:
        """Take what the worker has answered by now but the loop has not read, before anybody judges it."""
        if self.state != "ended":
            self.channel.catch_up()

    def _broken(self, reason: str) -> None:
        """The channel is of no use any more: neither is the worker."""
        if reason:
            self._trouble = f"its channel broke ({reason}): "
        self.credit = 0
        self.kill()

    def ask_drain(self) -> None:
        """Run the drain callback after the event in hand; `drained` resolves."""
        self.channel.send(frames.frame(frames.DRAIN))

    def stop(self) -> None:
        """End after the event in hand, running the termination callback; `ended` resolves."""
        if self.state in ("starting", "ready"):
            self.state = "stopping"
            self.credit = 0
            self.channel.send(frames.frame(frames.STOP))

    def kill(self) -> None:
        """SIGKILL the worker; `ended` resolves."""
        if self._process is not None:
            self._process.kill()

    def _ended(self, reason: str) -> None:
        """The process is gone. What it had finished is taken; what it had begun is left in `pending` with the rest for the
        owner.
        """
        self.state = "ended"
        self.credit = 0
        self.channel.drain()
        self._unbegun_at_end = self.unbegun()
        self.channel.close()
        self._host_calls.give_up()
        reason = self._trouble + reason
        if not self.ready.done():
            self.ready.set_result(f"the worker ended while it loaded the function: {reason}")
        if not self.drained.done():
            self.drained.set_result(None)
        self.ended.set_result(reason)

    def take_lost(self) -> tuple[list[Call], list[Call]]:
        """After the end: the calls it had begun or held (failed), and those it had not (to be given to another)."""
        unbegun = self._unbegun_at_end
        waiting = set(map(id, unbegun))
        begun = [call for call in self.pending.values() if id(call) not in waiting]
        begun += self.held.values()
        for call in unbegun:
            call.lent = 0
        self.pending.clear()
        self.held.clear()
        return begun, unbegun
