"""What a board is and can do: `Profile`, a value read from device_profiles/*.toml, and which of them this machine is.

Knows files and recognition; opens no chip, no port and no watchdog. Who needs a pin or a port asks the profile where it is.
"""

from edgehost.profile.board import Recognised, current, recognise
from edgehost.profile.model import Line, Profile
from edgehost.profile.profile_toml import load, names

__all__ = ["Line", "Profile", "Recognised", "current", "load", "names", "recognise"]
