"""Serial ports: which one is meant, opened for this agent alone, shared by its functions, found again when it was away.

Bytes come out and whole frames go in; what the bytes mean is edgehost/framing's.
"""

from edgehost.tty.line import LineSettings
from edgehost.tty.port import Port, State
from edgehost.tty.ports import Ports

__all__ = ["LineSettings", "Port", "Ports", "State"]
