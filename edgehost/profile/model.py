"""What a profile says, as frozen values: the schema of device_profiles/*.toml. Knows nothing of files or of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta, Struct

Text = Annotated[str, Meta(min_length=1)]
Path = Annotated[str, Meta(pattern="^/.+")]
Positive = Annotated[int, Meta(ge=1)]
Offset = Annotated[int, Meta(ge=0, le=1023)]


class Match(Struct, frozen=True, forbid_unknown_fields=True):
    """`[match]`: how the board is recognised. Each list holds patterns with `*`; one that fits is enough."""

    compatible: tuple[Text, ...] = ()
    """Strings of /proc/device-tree/compatible, which go from the most specific to the least."""
    dmi: tuple[Text, ...] = ()
    """`VENDOR / PRODUCT` as the firmware gives them (sys_vendor and product_name of /sys/class/dmi/id)."""
    model: tuple[Text, ...] = ()
    """The text of /proc/device-tree/model."""
    architecture: tuple[Text, ...] = ()
    """As `uname -m` says it. It marks a generic profile, the last resort of its architecture."""


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a pin's line is: by offset on a chip, or by the line's name on one chip or on any (exactly one of the two)."""

    chip: str = ""
    """A chip's label; empty: the first of `[gpio] chips`. Where that names none, a line's name is looked for on every chip."""
    offset: Offset | None = None
    name: str = ""

    def __str__(self) -> str:
        return f"{self.chip} {self.name or self.offset}"


class Gpio(Struct, frozen=True, forbid_unknown_fields=True):
    """`[gpio]`: the chips whose lines a person can reach, and what is on the board's headers.

    A pin has the name of its signal (`BCM17`) and that of its place, header and number (`J8-11`).
    """

    chips: tuple[Text, ...] = ()
    """Labels of the chips (gpiochips' numbers differ from kernel to kernel); the first is the one meant where none is named."""
    lines: dict[str, Offset | Text | Line] = {}
    """Signal = its line: an offset or a line name on the first chip, or a table with chip and offset or name."""
    headers: dict[str, tuple[Text, ...]] = {}
    """Header = its pins' signals, from pin 1 on. What is no signal of `lines` (`3V3`, `GND`) cannot be asked for."""
    renamed: dict[str, tuple[Text, ...]] = {}
    """A line's name = what other kernels call it. Neither has what a kernel writes behind it, as in `P8_35 [hdmi]`."""
    notes: dict[str, Text] = {}
    """Signal = what else it is used for."""
    note: str = ""
    """What a person should know of all of it."""

    def __post_init__(self) -> None:
        for name, line in self._named():
            if (line.offset is None) == (not line.name):
                raise ValueError(f"lines: {name} needs either offset = NUMBER or name = TEXT; write one of the two")
            if line.offset is not None and not line.chip:
                raise ValueError(f"chips: missing; {name} = {line.offset} is an offset on the first of them")

    def find(self, name: str) -> Line | None:
        """The line of a signal or of a place; capitals do not matter, nor whether `-` or `_` joins header and number."""
        wanted = _spelled(name)
        return next((line for known, line in self._named() if _spelled(known) == wanted), None)

    @property
    def pins(self) -> dict[str, Line]:
        """Every name a pin can be asked for by, with its line: `BCM17` and `J8-11`."""
        return dict(self._named())

    def _named(self) -> Iterator[tuple[str, Line]]:
        for signal, line in self.lines.items():
            yield signal, self._whole(line)
        for header, signals in self.headers.items():
            for number, signal in enumerate(signals, 1):
                if signal in self.lines:
                    yield f"{header}-{number}", self._whole(self.lines[signal])

    def _whole(self, line: int | str | Line) -> Line:
        chip = self.chips[0] if self.chips else ""
        if isinstance(line, int):
            return Line(chip, line)
        if isinstance(line, str):
            return Line(chip, name=line)
        return line if line.chip else Line(chip, line.offset, line.name)


class Port(Struct, frozen=True, forbid_unknown_fields=True):
    """`[serial.NAME]`: a serial port that is on the board."""

    path: Path
    note: str = ""


class Watchdog(Struct, frozen=True, forbid_unknown_fields=True):
    """`[watchdog]`: the hardware's own."""

    driver: Text
    max_timeout_s: Positive | None = None
    """The longest the hardware waits; None where no source says."""
    note: str = ""


class Storage(Struct, frozen=True, forbid_unknown_fields=True):
    """`[storage]`: what the system usually lives on."""

    kinds: tuple[Literal["sd", "emmc", "nvme", "usb", "disk"], ...] = ()
    advice: str = ""


class Sign(Struct, frozen=True, forbid_unknown_fields=True):
    """`[quirks.ID.sign]`: what shows on a running machine that the quirk holds there now. All that is given must be so."""

    controller_missing: str = ""
    """A cgroup controller that the kernel does not offer."""
    kernel_argument: str = ""
    """A word of /proc/cmdline, as a pattern with `*`."""
    kernel_below: str = ""
    """The running kernel is older than this release: "5.10"."""
    package: str = ""
    """An installed Python package and its version, as a pattern: "onnxruntime 1.21.0"."""
    path: str = ""
    """A path that exists."""
    path_missing: str = ""


class Quirk(Struct, frozen=True, forbid_unknown_fields=True):
    """`[quirks.ID]`: something about the board that surprises people."""

    what: Text
    do: Text
    source: Text
    sign: Sign | None = None
    """None: it cannot be seen from here, or always holds."""


class Profile(Struct, frozen=True, forbid_unknown_fields=True):
    """One board, as its file says. `name` is the file's name without `.toml`."""

    name: str
    title: Text
    match: Match = Match()
    note: str = ""
    cores: Annotated[int, Meta(ge=0)] = 0
    """0: not the same on every such machine."""
    memory_mib: tuple[Positive, ...] = ()
    """The sizes it is sold with."""
    workers: Annotated[int, Meta(ge=0)] = 0
    """Recommended for one busy function; 0: one less than the machine has cores."""
    worker_memory_bytes: Positive | None = None
    """Recommended as `[limits] memory` of a function."""
    providers: tuple[Text, ...] = ("CPUExecutionProvider",)
    """onnxruntime's execution providers in the order to try them; empty: no build of onnxruntime for it."""
    gpio: Gpio = Gpio()
    serial: dict[str, Port] = {}
    thermal: tuple[Text, ...] = ()
    """Types of the thermal zones (/sys/class/thermal/thermal_zone*/type), the processor's first."""
    watchdog: Watchdog | None = None
    storage: Storage = Storage()
    quirks: dict[str, Quirk] = {}
    sources: dict[str, Text] = {}
    """Short name = title of the document the facts are from."""

    def __post_init__(self) -> None:
        for name, quirk in self.quirks.items():
            if quirk.sign == Sign():
                raise ValueError(f"quirks: {name}.sign asks nothing; write at least one key, or leave it out")

    @property
    def generic(self) -> bool:
        """Whether it stands for every board of an architecture that no other profile knows."""
        return bool(self.match.architecture)


def _spelled(name: str) -> str:
    return name.upper().replace("_", "-")
