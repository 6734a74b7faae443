"""Polling: what sources have in common that are asked on an interval instead of speaking by themselves."""

from edgehost.polling.calling import in_thread
from edgehost.polling.field import pick
from edgehost.polling.poller import Poller, TryLaterError
from edgehost.polling.sift import Found, Memory, Rules, Sifted, sift

__all__ = ["Found", "Memory", "Poller", "Rules", "Sifted", "TryLaterError", "in_thread", "pick", "sift"]
