"""Draws a profile for people: the board, its headers, the list of all. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgehost.profile import Profile, Recognised
from edgehost.profile.here import Here

MIB = 1024 * 1024
STORAGE = {"sd": "SD card", "emmc": "eMMC", "nvme": "NVMe", "usb": "USB", "disk": "disk"}


def board(found: Recognised, here: Here | None) -> RenderableType:
    """Everything about one board; `here` is None for one that this machine is not."""
    profile = found.profile
    head = Text.assemble((profile.title, "bold"), f"  {profile.name}")
    blocks: list[RenderableType] = [head]
    if here:
        blocks.append(Text(found.why, "yellow" if profile.generic else "green"))
    if here and profile.generic:
        blocks.append(Text("→ `edgehost profile --write FILE` starts a profile of your own"))
    blocks += ["", _facts(found, here)]
    for title, part in (("QUIRKS", _quirks(profile, here)), ("SOURCES", _sources(profile))):
        if part.row_count:
            blocks += ["", Text(title, "bold"), part]
    return Group(*blocks)


def headers(profile: Profile) -> RenderableType:
    """Each header as it lies on the board: two rows of pins, numbered, and where each line is."""
    if not profile.gpio.headers:
        return Text(f"{profile.title}: no header is known")
    blocks: list[RenderableType] = [Text.assemble((profile.title, "bold"), f"  {', '.join(profile.gpio.chips)}")]
    for name, signals in profile.gpio.headers.items():
        blocks += ["", Text(name, "bold"), _header(profile, signals)]
    if profile.gpio.note:
        blocks += ["", Text(profile.gpio.note)]
    return Group(*blocks)


def table(profiles: Sequence[Profile]) -> RenderableType:
    """One line a profile."""
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("PROFILE", "BOARD", "CORES", "PINS"):
        grid.add_column(title, no_wrap=True)
    grid.add_column("SERIAL", overflow="fold")
    for profile in profiles:
        ports = ", ".join(profile.serial) or "-"
        grid.add_row(profile.name, profile.title, str(profile.cores or "-"), str(len(profile.gpio.lines) or "-"), ports)
    return grid


def _facts(found: Recognised, here: Here | None) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, value in _rows(found, here):
        if value:
            grid.add_row(name, Text(value) if isinstance(value, str) else value)
    return grid


def _rows(found: Recognised, here: Here | None) -> Iterator[tuple[str, str | Text]]:
    profile = found.profile
    yield "note", profile.note
    yield "cores", str(profile.cores or "")
    yield "memory", _memory(found, here)
    yield "workers", _workers(profile)
    yield "onnx", " ".join(name.removesuffix("ExecutionProvider") for name in profile.providers) or "not on this board"
    yield "gpio", _gpio(profile)
    for name, port in profile.serial.items():
        yield "serial", _port(name, port.path, port.note, here)
    yield "temperature", _thermal(profile, here)
    yield "watchdog", _watchdog(profile, here)
    yield "storage", "; ".join(filter(None, (", ".join(STORAGE[kind] for kind in profile.storage.kinds), profile.storage.advice)))


def _memory(found: Recognised, here: Here | None) -> str:
    now = f"{found.facts.memory_bytes // MIB:,} MiB here" if here and found.facts.memory_bytes else ""
    sold = ", ".join(_size(mib) for mib in found.profile.memory_mib)
    return "; ".join(filter(None, (now, f"sold with {sold}" if sold else "")))


def _size(mib: int) -> str:
    return f"{mib // 1024} GiB" if mib % 1024 == 0 else f"{mib} MiB"


def _workers(profile: Profile) -> str:
    memory = f', memory = "{profile.worker_memory_bytes // MIB}MiB" in its [limits]' if profile.worker_memory_bytes else ""
    return f"at most {profile.workers} for a busy function{memory}"


def _gpio(profile: Profile) -> str:
    lines = f"{len(profile.gpio.lines)} lines on {', '.join(profile.gpio.headers)}: see --pins" if profile.gpio.headers else ""
    return "; ".join(filter(None, (", ".join(profile.gpio.chips), lines)))


def _port(name: str, path: str, note: str, here: Here | None) -> Text:
    device = here.serial[name] if here else path
    where = path if device == path else f"{path} → {device}" if device else path
    text = Text.assemble((name, "cyan"), f"  {where}")
    if here and not device:
        text.append("  not there", "yellow")
    return text.append(f"  {note}" if note else "")


def _thermal(profile: Profile, here: Here | None) -> str:
    if here is None:
        return ", ".join(profile.thermal)
    return ", ".join(f"{kind} {here.thermal[kind]:.1f} °C" if kind in here.thermal else f"no {kind}" for kind in profile.thermal)


def _watchdog(profile: Profile, here: Here | None) -> str:
    there = f"here: {here.watchdog}" if here and here.watchdog else "none here now" if here else ""
    if profile.watchdog is None:
        return there if here and here.watchdog else ""
    most = f", at most {profile.watchdog.max_timeout_s} s" if profile.watchdog.max_timeout_s else ""
    return "; ".join(filter(None, (f"{profile.watchdog.driver}{most}", there, profile.watchdog.note)))


def _quirks(profile: Profile, here: Here | None) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, quirk in profile.quirks.items():
        state = here.quirks.get(name) if here else None
        style, now = {True: ("yellow", "holds here now: "), False: ("dim", "not here now: "), None: ("", "")}[state]
        grid.add_row(Text(name, style), Text.assemble((now, style), f"{quirk.what}\n→ {quirk.do}\n", (quirk.source, "dim")))
    return grid


def _sources(profile: Profile) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold", style="dim")
    for name, title in profile.sources.items():
        grid.add_row(name, Text(title))
    return grid


def _header(profile: Profile, signals: Sequence[str]) -> Table:
    """Odd pins left, even pins right, their numbers in the middle."""
    grid = Table.grid(padding=(0, 1))
    for place in range(8):
        grid.add_column(justify="right" if place < 4 else "left", no_wrap=place not in (0, 7), overflow="fold")
    for number in range(1, len(signals) + 1, 2):
        left = _pin(profile, signals[number - 1])
        right = _pin(profile, signals[number]) if number < len(signals) else []
        grid.add_row(*reversed(left), Text(str(number), "dim"), Text(str(number + 1), "dim"), *right)
    return grid


def _pin(profile: Profile, signal: str) -> list[Text]:
    """The signal, its line on its chip, and what else it is used for."""
    line = profile.gpio.find(signal)
    if line is None:
        return [Text(signal, "red" if signal.endswith(("3V3", "5V")) else "dim"), Text(), Text()]
    where = line.name if line.offset is None else str(line.offset)
    return [Text(signal, "green"), Text(where, "cyan"), Text(profile.gpio.notes.get(signal, ""), "dim")]
