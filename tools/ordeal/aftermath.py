"""After the faults: waits until nothing is owed any more, then looks into the dead letters and has them replayed.

Knows which messages are doomed; must not know which faults there were, or which promise is broken by what is still owed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from tools.ordeal import bundles, letters, verdict
from tools.ordeal.ledger import Incoming, Ledger
from tools.ordeal.messages import BY_NAME, message
from tools.ordeal.sender import Sender
from tools.ordeal.subject import Subject
from tools.ordeal.verdict import Letters
from tools.ordeal.web import Web
from tools.ordeal.wrongs import in_thread, settled

START_S = 60.0
END_S = 60.0
STILL_S = 75.0
"""Nothing owed has moved for so long: longer than any back-off of the agent (60 s)."""
_GONE_S = 8.0
"""Likewise, where all that the agent ever had is settled and only the broker can still bring something."""
_DOOMED = "E"
_FUNCTION = bundles.function_of(_DOOMED)
_ALL = 10**7
"""Healed up to here: all."""


class Aftermath:
    """One run's."""

    def __init__(
        self, seed: int, ledger: Ledger, subject: Subject, sender: Sender, web: Web, functions: Path, state: Path
    ) -> None:
        self.letters = Letters()
        self.troubles: list[str] = []
        self.owed = True
        """Whether something that the agent has taken is not answered, as of the last look."""
        self._seed = seed
        self._ledger, self._subject, self._sender, self._web = ledger, subject, sender, web
        self._functions, self._state = functions, state
        self._healed = -1

    async def drained(self, tell: Callable[[str], None]) -> None:
        """Return when nothing is owed, or nothing has moved for too long."""
        progress, moved = -1, time.monotonic()
        while True:
            await asyncio.sleep(0.3)
            if self._ledger.progress != progress:
                progress, moved = self._ledger.progress, time.monotonic()
            inside = verdict.unanswered(self._ledger, self._hopeless()) + len(self._ledger.untaken())
            outside = self._sender.unacknowledged + self._web.waiting + self._missing()
            self.owed = inside > 0
            still_s = time.monotonic() - moved
            if not inside and not outside and still_s > 1.0:
                return
            if still_s > (STILL_S if inside else _GONE_S):
                tell(f"nothing moves any more: {inside} owed by the agent, {outside} that it has not been given")
                return

    async def replay_some(self) -> bool:
        """Half of the doomed are healed, and all dead letters replayed; whether it came to that."""
        doomed = sorted(number for number in self._doomed() if number > self._healed)
        if not doomed:
            return False
        self._healed = doomed[len(doomed) // 2]
        bundles.heal(self._functions, self._healed)
        try:
            await in_thread(lambda: self._subject.replay(_FUNCTION))
        except RuntimeError:
            return False  # it died of it, as it should, or was not up yet
        return True

    async def check_letters(self, tell: Callable[[str], None]) -> None:
        """What is doomed, exactly, is among the dead letters; replayed, it is answered like any other."""
        self.letters.expected = {number for number in self._doomed() if (f"out/{_DOOMED}", number) not in self._ledger.answered}
        await self._end_agent()
        self.letters.found = letters.in_journal(self._state, _FUNCTION)
        self.letters.strange = {number for number in self.letters.found if not self._is_doomed((_DOOMED, number))}
        self._healed = _ALL
        bundles.heal(self._functions, self._healed)
        self._subject.start()
        if not await settled(self._subject, START_S):
            self.troubles.append("the agent did not become ready for the replay")
        try:
            self.letters.replayed = await in_thread(lambda: self._subject.replay(_FUNCTION))
        except RuntimeError as error:
            self.letters.unchecked = str(error)
            return
        await self.drained(tell)
        await self._end_agent()
        self.letters.left = letters.in_journal(self._state, _FUNCTION)

    async def _end_agent(self) -> None:
        """An orderly end, after which nothing may be left on disk: nothing was to be done any more."""
        status = await in_thread(lambda: self._subject.end(END_S))
        if status != 0:
            self.troubles.append(f"the agent was asked to end and ended with {status} (None: not within {END_S:g} s)")
        if left := letters.left_over(self._state):
            self.troubles.append(f"an agent with nothing to do left {left}")

    def _doomed(self) -> set[int]:
        return {number for flow, number in self._ledger.taken if self._is_doomed((flow, number))}

    def _is_doomed(self, one: Incoming) -> bool:
        return one[0] == _DOOMED and message(self._seed, BY_NAME[_DOOMED], one[1]).fate == "doomed"

    def _hopeless(self) -> set[Incoming]:
        """What will not be answered, as things are."""
        return set() if self._healed == _ALL else {(_DOOMED, number) for number in self._doomed()}

    def _missing(self) -> int:
        """Messages that the broker has acknowledged and the agent has not."""
        taken = self._ledger.taken
        return sum((flow, number) not in taken for flow, numbers in self._sender.sent.items() for number in list(numbers))
