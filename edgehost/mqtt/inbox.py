"""What comes in: who subscribed to what, what is asked of the broker for it, and which message goes to whom.

Knows the current connection only while there is one; subscriptions outlive it. Never connects, never publishes.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Callable
from typing import Any, TypeAlias

from paho.mqtt.reasoncodes import ReasonCode

from edgehost.config import Broker
from edgehost.errors import TriggerError
from edgehost.mqtt.connection import Connection
from edgehost.mqtt.exchanges import Receiver
from edgehost.mqtt.packets import Message
from edgehost.mqtt.paho_client import Opened
from edgehost.mqtt.reasons import explain
from edgehost.mqtt.topics import Routes, filter_problem

Handler = Callable[[Message], None]
_Question: TypeAlias = "asyncio.Future[list[ReasonCode]] | None"

_ANSWER_S = 10.0
# A persistent session delivers what it kept before the functions have subscribed again; so long it waits, unacknowledged.
_PARK_S = 30.0


def ignore(_reason: str) -> None:
    """For a subscriber that does not care why it was refused."""


class Subscription:
    """One subscriber's interest in one filter. `handler` is called in the loop for each message and must not block."""

    def __init__(self, inbox: Inbox, filter_text: str, qos: int, handler: Handler, on_refused: Callable[[str], None]) -> None:
        self.filter = filter_text
        self.qos = qos
        self.handler = handler
        self.on_refused = on_refused
        # Derived from the text: messages that a persistent session kept for us carry the number an earlier run gave.
        self.ids = (zlib.crc32(filter_text.encode()) % 268_435_455 + 1,)
        self._inbox = inbox

    async def close(self) -> None:
        """No message comes any more; the broker is told when this was the last subscription with its filter."""
        await self._inbox.unsubscribe(self)


class _Filter:
    """What is asked of the broker for one filter, for all who use it."""

    def __init__(self) -> None:
        self.users: list[Subscription] = []
        self.granted_qos = -1
        """-1: the broker has not said yes."""
        self.refused = False

    @property
    def qos(self) -> int:
        return max(user.qos for user in self.users)


class Inbox:
    """Every subscription of a session and every message on its way to a handler."""

    def __init__(self, broker: Broker, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self.keep = False
        """True once the agent ends: the broker is to keep subscriptions, and messages, for the next run."""
        self.unrouted = 0
        self._broker = broker
        self._log = log
        self._receiver = Receiver()
        self._routes: Routes[Subscription] = Routes()
        self._filters: dict[str, _Filter] = {}
        self._forgotten: set[str] = set()
        """Filters nobody uses any more and of which the broker does not know that yet."""
        self._answers: dict[int, asyncio.Future[list[ReasonCode]]] = {}
        self._parked: list[Message] = []
        self._settling = True
        """The first seconds of a connection, when messages may come that were kept under the subscriptions of an earlier run."""
        self._connection: Connection | None = None
        self._grant = Opened()

    @property
    def asking(self) -> bool:
        """Whether the broker owes an answer to a SUBSCRIBE or UNSUBSCRIBE."""
        return bool(self._answers)

    async def subscribe(self, filter_text: str, qos: int, handler: Handler, on_refused: Callable[[str], None]) -> Subscription:
        """See Session.subscribe."""
        if problem := filter_problem(filter_text):
            raise TriggerError(f"{filter_text!r} is not a topic filter: {problem}")
        subscription = Subscription(self, filter_text, qos, handler, on_refused)
        wanted = self._filters.setdefault(filter_text, _Filter())
        wanted.users.append(subscription)
        self._routes.add(filter_text, subscription)
        self._deliver_parked()  # before what comes while the broker is asked
        if wanted.granted_qos < qos:
            asked = wanted.qos
            reasons = await self._answer(self._ask_for(filter_text, wanted))
            if refusal := self._granted(wanted, filter_text, asked, reasons):
                await self.unsubscribe(subscription)
                raise TriggerError(refusal)
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Undo a `subscribe`; a second time does nothing."""
        wanted = self._filters.get(subscription.filter)
        if wanted is None or subscription not in wanted.users:
            return
        wanted.users.remove(subscription)
        self._routes.remove(subscription.filter, subscription)
        if not wanted.users:
            del self._filters[subscription.filter]
            if not self.keep and not wanted.refused:
                self._forgotten.add(subscription.filter)
                await self._answer(self._ask(lambda connection: connection.unsubscribe(subscription.filter)))
                self._forgotten.discard(subscription.filter)

    def opened(self, connection: Connection, grant: Opened) -> None:
        """Connected: ask again for what the broker has forgotten, or has never heard of."""
        self._connection, self._grant = connection, grant
        if not grant.session_present:
            self._receiver.restart()
            self._parked.clear()
            self._forgotten.clear()
            for wanted in self._filters.values():
                wanted.granted_qos = -1
        else:
            self._receiver.resume()
        self._settling = True
        self._catch_up()
        asyncio.get_running_loop().call_later(_PARK_S, self._drop_parked, connection)

    def lost(self, free: Callable[[int], None]) -> None:
        """No connection any more; `free` gets the packet ids of questions that nobody answers now."""
        self._connection = None
        for packet_id, answer in self._answers.items():
            free(packet_id)
            answer.cancel()
        self._answers.clear()

    def confirmed(self, packet_id: int, reasons: list[ReasonCode]) -> None:
        """A SUBACK or UNSUBACK."""
        answer = self._answers.pop(packet_id, None)
        if answer is not None and not answer.done():
            answer.set_result(reasons)

    def received(self, message: Message, connection: Connection) -> None:
        """A PUBLISH: give it to everybody whose filter matches."""
        if message.qos:
            fresh, answer = self._receiver.accept(message)
            if answer:
                connection.write(answer)
            if not fresh:
                return
        found = self._routes.match(message.topic)
        if len(found) == 1 and message.subscription_ids in ((), found[0].ids):
            self._hand_over(message, found[0].handler)
        else:
            self._distribute(message, found)

    def released(self, packet_id: int) -> bytes:
        """A PUBREL: the PUBCOMP it is owed."""
        return self._receiver.released(packet_id)

    def ack(self, message: Message) -> None:
        """See Session.ack."""
        if message.qos:
            connection = self._connection
            packet = self._receiver.answered(message, connection is not None)
            if packet and connection is not None:
                connection.write(packet)

    def give_back(self, message: Message) -> None:
        """See Session.give_back."""
        packet = self._receiver.given_back(message)
        if packet and self._connection is not None:
            self._connection.write(packet)

    def _distribute(self, message: Message, found: tuple[Subscription, ...]) -> None:
        """Several subscribers, or none. A broker sends one copy for each filter that matches and says which by its id."""
        if message.subscription_ids:
            named = tuple(one for one in found if one.ids[0] in message.subscription_ids)
            found = named or (found if self._settling else ())
        handlers = list(dict.fromkeys(subscription.handler for subscription in found))
        if not handlers:
            self.unrouted += 1
        if message.qos:
            if handlers:
                self._receiver.share(message, len(handlers))
            else:
                self._parked.append(message)
        for handler in handlers:
            self._hand_over(message, handler)

    def _hand_over(self, message: Message, handler: Handler) -> None:
        try:
            handler(message)
        except Exception:
            self._log.exception("a message on %r could not be handed over", message.topic)

    def _deliver_parked(self) -> None:
        parked, self._parked = self._parked, []
        self.unrouted -= len(parked)
        for message in parked:
            self._distribute(message, self._routes.match(message.topic))

    def _drop_parked(self, connection: Connection) -> None:
        """Nobody came for them: acknowledge, or they would fill the broker's window for ever."""
        if self._connection is not connection or self.keep:
            return
        self._settling = False
        parked, self._parked = self._parked, []
        if parked:
            self._log.warning(
                "%d messages dropped that no function subscribes to, the first on %r: %s still holds the subscription of an "
                "earlier run; give the agent a new client_id in [brokers.NAME] if they keep coming",
                len(parked), parked[0].topic, self._broker.url,
            )  # fmt: skip
        for message in parked:
            self.ack(message)
        asyncio.get_running_loop().call_later(_PARK_S, self._drop_parked, connection)

    def _catch_up(self) -> None:
        """Tell the broker what changed while we were away: everything is asked at once, the answers are awaited in a task."""
        asked = [
            (wanted, text, wanted.qos, self._ask_for(text, wanted))
            for text, wanted in self._filters.items()
            if wanted.users and wanted.granted_qos < wanted.qos
        ]
        for text in self._forgotten - self._filters.keys():
            self._ask(lambda connection, text=text: connection.unsubscribe(text))  # type: ignore[misc]
        self._forgotten.clear()
        self._asking = asyncio.get_running_loop().create_task(self._take_answers(asked))

    async def _take_answers(self, asked: list[tuple[_Filter, str, int, _Question]]) -> None:
        for wanted, text, qos, question in asked:
            if refusal := self._granted(wanted, text, qos, await self._answer(question)):
                for user in tuple(wanted.users):
                    user.on_refused(refusal)

    def _ask_for(self, text: str, wanted: _Filter) -> _Question:
        """SUBSCRIBE."""
        qos = wanted.qos
        subscription_id = wanted.users[0].ids[0] if self._grant.subscription_ids else 0
        return self._ask(lambda connection: connection.subscribe(text, qos, subscription_id))

    def _granted(self, wanted: _Filter, text: str, qos: int, reasons: list[ReasonCode] | None) -> str:
        """Why the broker refused, or "" (also when there was no connection or no answer: the next connection asks again)."""
        if reasons is None:
            return ""
        wanted.refused = bool(reasons[0].is_failure)
        if not wanted.refused:
            wanted.granted_qos = qos
            return ""
        code = reasons[0].value
        return f"the broker at {self._broker.url} refused the subscription to {text!r}: {explain(code, str(reasons[0]))}"

    def _ask(self, ask: Callable[[Connection], int]) -> _Question:
        """Send a SUBSCRIBE or UNSUBSCRIBE now, if there is a connection."""
        if self._connection is None:
            return None
        try:
            packet_id = ask(self._connection)
        except ConnectionError:
            return None
        answer: asyncio.Future[list[ReasonCode]] = asyncio.get_running_loop().create_future()
        self._answers[packet_id] = answer
        return answer

    async def _answer(self, question: _Question) -> list[ReasonCode] | None:
        """What the broker said; None if the connection is lost or no answer comes in time."""
        if question is None:
            return None
        await asyncio.wait([question], timeout=_ANSWER_S)
        return question.result() if question.done() and not question.cancelled() else None
