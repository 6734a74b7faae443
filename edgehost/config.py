"""What edgehost.toml says, as frozen values. `config_toml` reads the file; what the parts do with it is theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edgehost.manifest.model import LogLevel, Positive, Seconds


class Broker(Struct, frozen=True, forbid_unknown_fields=True):
    """`[brokers.NAME]`: one MQTT broker. Passwords come from a file or the environment, never from this file's text."""

    url: str
    """mqtt://host[:1883] or mqtts://host[:8883]."""
    client_id: str = ""
    """Empty: `edgehost-<host name>`; a persistent session needs one that stays."""
    version: Literal["5", "3.1.1"] = "5"
    username: str = ""
    password_file: str = ""
    password_env: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    insecure: bool = False
    """Accept any server certificate; for a test bench only."""
    keepalive_s: Positive = 30
    session_expiry_s: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] = 86400
    """How long the broker keeps our session while we are away (MQTT 5, 3.1.2.11.2); 0 means a clean session."""
    connect_timeout_s: Seconds = 10.0
    max_queued: Positive = 10000
    """Messages that may wait in memory to be sent while the broker is slow or away."""


DEFAULT_BROKER = Broker(url="mqtt://127.0.0.1:1883")
"""What `default` means where edgehost.toml says nothing of it."""


class Http(Struct, frozen=True, forbid_unknown_fields=True):
    """`[http]`: the one listener of the agent."""

    listen: str = "127.0.0.1:8080"
    body_limit_bytes: Positive = 4 * 1024 * 1024
    keepalive_s: Positive = 15
    max_connections: Positive = 256


class SerialPort(Struct, frozen=True, forbid_unknown_fields=True):
    """`[serial.NAME]`: what a function's `port = "NAME"` means on this device."""

    port: Annotated[str, Meta(min_length=1)]
    """A path (`/dev/ttyUSB0`), a name in /dev/serial/by-id, or `usb:VENDOR:PRODUCT[:SERIAL]` in hexadecimal."""


class Gpio(Struct, frozen=True, forbid_unknown_fields=True):
    """`[gpio]`: what functions' pins are."""

    driver: Literal["auto", "gpiod", "sim"] = "auto"
    """auto: the kernel's chips, by gpiod. sim: chips in the agent's memory, moved with `edgehost gpio set`."""
    chip: str = ""
    """The chip meant where a function names none: a label or a path; empty: the board profile's."""


class Secret(Struct, frozen=True, forbid_unknown_fields=True):
    """`[secrets.NAME]`: where a secret lies, and which functions may have it. One of `file` and `credential`."""

    functions: tuple[str, ...]
    file: str = ""
    """Of mode 0600 or 0400, owned by root or the user the agent runs as."""
    credential: Annotated[str, Meta(pattern="^[^/\\x00]*$")] = ""
    """A name in systemd's $CREDENTIALS_DIRECTORY (`LoadCredential=NAME:PATH` in the unit)."""

    def __post_init__(self) -> None:
        if bool(self.file) == bool(self.credential):
            raise ValueError("file: give either file or credential; where else would the secret come from")


class Journal(Struct, frozen=True, forbid_unknown_fields=True):
    """`[journal]`: the database in `[agent] state` under every promise: durable events, what waits to leave, dead letters."""

    durability: Literal["full", "relaxed"] = "full"
    """full: what counts has been synced to the disk. relaxed: a power cut may take the last seconds, for less wear."""
    events_bytes: Positive = 64 * 1024 * 1024
    """Durable events that wait for their function; beyond that their sources are held back."""
    outbox_bytes: Positive = 64 * 1024 * 1024
    """Messages of all outputs that wait to leave."""
    dead_letters: Positive = 10_000
    """So many are kept; the oldest goes for one more."""
    drain_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] = 200.0
    """How fast one output's backlog leaves after an outage, at the least twice as fast as it still grows."""
    written_per_day_bytes: Positive | None = None
    """Beyond that the journal writes seldom, and only what a promise needs; see docs/delivery.md."""


class Disk(Struct, frozen=True, forbid_unknown_fields=True):
    """`[disk]`: what goes, and in which order, when the state folder's file system has less than so much left.

    Each mark counts at most a share of the file system: 10, 8, 6 and 4 parts of a hundred.
    """

    logs_bytes: Positive = 256 * 1024 * 1024
    """Old log files, and damaged journals that were set aside."""
    bundles_bytes: Positive = 192 * 1024 * 1024
    """The cache of bundles."""
    outbox_bytes: Positive = 128 * 1024 * 1024
    """Messages of low priority that wait to leave."""
    refuse_bytes: Positive = 64 * 1024 * 1024
    """Durable events are refused, until there is room again."""


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """`[log]`: the agent's log, on standard error."""

    level: LogLevel = "info"
    format: Literal["auto", "text", "json"] = "auto"
    """auto: text on a terminal, JSON lines otherwise."""


class Config(Struct, frozen=True):
    """The whole of edgehost.toml. A relative path in the file counts from the file's own folder; here every path is absolute."""

    source: Path | None = None
    functions: tuple[Path, ...] = ()
    """Folders that each hold one function."""
    socket: Path | None = None
    """The local control socket; None: agent.sock in $RUNTIME_DIRECTORY, else $XDG_RUNTIME_DIR/edgehost, else /run/edgehost."""
    state: Path | None = None
    """The folder for what must survive a restart; None: $STATE_DIRECTORY, else root's /var/lib/edgehost or the user's own."""
    brokers: dict[str, Broker] = {}
    serial: dict[str, SerialPort] = {}
    gpio: Gpio = Gpio()
    profile: str = ""
    """The board profile's name, or a path to one; empty: the board is recognised."""
    secrets: dict[str, Secret] = {}
    http: Http = Http()
    journal: Journal = Journal()
    disk: Disk = Disk()
    log: Log = Log()
    warnings: tuple[str, ...] = ()
    """What is allowed but unwise, one line each (a password file that everybody can read)."""
