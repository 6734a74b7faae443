"""Every error edgehost raises on purpose. Each class has a stable `code`; the message says what, the value, what was
expected and what to do.
"""

from __future__ import annotations


class EdgehostError(Exception):
    """Root of all errors of edgehost. `code` is stable: scripts and the fleet may match it; the text is for people."""

    code = "error"


class ManifestError(EdgehostError):
    """A function's manifest is wrong: `function.toml [triggers.temp].qos: 3 is not a QoS; use 0, 1 or 2`."""

    code = "manifest"


class ConfigError(EdgehostError):
    """The agent's edgehost.toml is wrong; same form as ManifestError."""

    code = "config"


class PluginError(EdgehostError):
    """A trigger, output or runtime kind is unknown, or its package is not installed."""

    code = "plugin"


class StartError(EdgehostError):
    """A function's worker could not be started: import failed, init_context raised, the model did not load."""

    code = "start"


class TriggerError(EdgehostError):
    """A trigger or output cannot do its work: address in use, broker refused, not a topic filter."""

    code = "trigger"


class AwayError(TriggerError):
    """An output's receiver cannot be reached, or takes nothing now: the same message may be taken later."""

    code = "away"


class StateError(EdgehostError):
    """What must survive a restart cannot be read or written: no room, no right to the folder."""

    code = "state"


class ControlError(EdgehostError):
    """A request over the local socket was refused, or no agent answers there."""

    code = "control"


class InstallError(EdgehostError):
    """edgehost cannot be made a service of this system: no systemd, not root, a folder the service could not read."""

    code = "install"
