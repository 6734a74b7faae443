"""What `edgehost check` looks at: one small function a question, each giving one Finding. Looks, and changes nothing.

What a check needs of the machine it is given (a root for /proc, /sys and /dev; what may be opened; a time), so that any
machine can be played to it.
"""

from __future__ import annotations

import grp
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from edgehost.config import DEFAULT_BROKER, Broker
from edgehost.engine.holds import held
from edgehost.engine.landlock import DEVICE_ABI, NETWORK_ABI, SCOPE_ABI
from edgehost.profile import Profile, Recognised
from edgehost.profile.here import Here

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
"""The versions the tests run on."""
NEEDED = ("msgspec", "paho-mqtt", "psutil", "pyserial", "cronsim")
HTTP = ("uvicorn", "starlette")
SERIAL_GLOBS = ("ttyUSB*", "ttyACM*", "ttyAMA*", "ttyTHS*", "rfcomm*")
BUILT_YEAR = 2026
"""No clock that is right shows an earlier year."""
CLOCK_ADVICE = "`sudo timedatectl set-ntp true`, or install chrony: cron triggers and TLS need the right time"
MIB = 1024 * 1024
LITTLE_BYTES, SOME_BYTES = 16 * MIB, 128 * MIB
BROKER_WAIT_S = 5.0
ONNX_WAIT_S = 120.0
"""Importing onnxruntime takes seconds on a small board with a slow card."""
WITHOUT_MEMORY_CONTROLLER = "the kernel cannot limit the memory of a group; a memory limit is watched four times a second instead"

ONNX_REINSTALL = "pip install --force-reinstall 'edgehost[onnx]'"
ONNX_PROBE = "import json, onnxruntime as o; print(json.dumps([o.__version__, o.get_available_providers()]))"

SANDBOX_PARTS = (("TCP ports", NETWORK_ABI), ("devices", DEVICE_ABI), ("signals", SCOPE_ABI))

State = Literal["ok", "warn", "fail"]
Usable = Callable[[Path], bool]


class Finding(Struct, frozen=True):
    """One line of the report. `advice` says what to do and is empty when there is nothing to do."""

    name: str
    state: State
    found: str
    advice: str = ""


def python(version: tuple[int, ...]) -> Finding:
    """Is this Python one edgehost is tested with?"""
    text = f"{'.'.join(map(str, version[:3]))} at {sys.executable}"
    if version[:2] < OLDEST_PYTHON:
        return Finding("python", "fail", text, "install Python 3.10 or newer")
    if version[:2] > NEWEST_PYTHON:
        return Finding("python", "warn", text, "newer than the versions edgehost is tested with (3.10 to 3.13)")
    return Finding("python", "ok", text)


def machine(found: Recognised, pointer_bits: int) -> Finding:
    """Which board, and can prebuilt packages be had for it?"""
    architecture = found.facts.architecture
    board = found.facts.model or found.facts.dmi or "this machine"
    text = f"{board} (profile {found.profile.name}), {architecture}, {pointer_bits}-bit Python"
    if pointer_bits == 64 and architecture in ("x86_64", "aarch64"):
        return Finding("machine", "ok", text)
    advice = "onnx models cannot run here (onnxruntime has no 32-bit build); install a 64-bit system if the board can"
    if pointer_bits == 64:
        advice = "no prebuilt packages for this architecture; pip builds them, which needs a C compiler"
    return Finding("machine", "warn", text, advice)


def quirks(profile: Profile, here: Here) -> Iterator[Finding]:
    """What is special about this board and holds now, but for what another line looks at."""
    for name, quirk in profile.quirks.items():
        if here.quirks.get(name) and quirk.sign and not quirk.sign.controller_missing:
            yield Finding("board", "warn", quirk.what, quirk.do)


def packages(version: Callable[[str], str]) -> Finding:
    """Is everything the agent imports installed? `version` raises PackageNotFoundError."""
    there, missing = _versions(NEEDED, version)
    if missing:
        return Finding("packages", "fail", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return Finding("packages", "ok", ", ".join(there))


def http(version: Callable[[str], str]) -> Finding:
    """Can http triggers listen?"""
    there, missing = _versions(HTTP, version)
    if missing:
        return Finding("http", "warn", f"missing: {', '.join(missing)}", "for http triggers: pip install 'edgehost[http]'")
    return Finding("http", "ok", ", ".join(there))


def cgroups(root: Path) -> Finding:
    """Can the memory of a group of processes be limited?"""
    unified = text_of(root / "sys/fs/cgroup/cgroup.controllers")
    if (root / "sys/fs/cgroup/cgroup.controllers").exists():
        return _memory_controller("v2", "memory" in unified.split(), unified.strip().replace(" ", ", "), root)
    rows = [line.split() for line in text_of(root / "proc/cgroups").splitlines() if line and not line.startswith("#")]
    enabled = [row[0] for row in rows if len(row) == 4 and row[3] == "1"]
    if not enabled:
        return Finding("cgroups", "warn", "none", WITHOUT_MEMORY_CONTROLLER)
    return _memory_controller("v1", "memory" in enabled, ", ".join(enabled), root)


def limits(why_not: str) -> Finding:
    """Would a cgroup hold the limits of functions? `why_not` is edgehost.engine.cgroup.usable, for this process."""
    if not why_not:
        return Finding("limits", "ok", "memory, processes and cpu by cgroup, temp watched, the rest by rlimit")
    found = f"memory, processes and temp are watched, cpu is not enforced for an agent started here: {why_not}"
    return Finding("limits", "warn", found, "run it by systemd with Delegate=yes; `edgehost functions` says what holds there")


def sandbox(abi: int) -> Finding:
    """What can functions be kept from? `abi` is Landlock's version, 0 without."""
    if not abi:
        found = "functions are not kept from each other's files: this kernel has no Landlock"
        return Finding("sandbox", "warn", found, "use Linux 5.13 or newer, with lsm=landlock,… on its command line")
    holds = [*held(abi), *(["TCP ports"] if abi >= NETWORK_ABI else [])]
    lacks = [name for name, first in SANDBOX_PARTS if abi < first]
    missing = f"; not {', '.join(lacks)}: that needs a newer kernel" if lacks else ""
    return Finding("sandbox", "ok", f"Landlock {abi} keeps {', '.join(holds)}{missing}")


def _memory_controller(version: str, memory: bool, controllers: str, root: Path) -> Finding:
    if memory:
        return Finding("cgroups", "ok", f"{version} with {controllers}")
    command_line = text_of(root / "proc/cmdline")
    advice = WITHOUT_MEMORY_CONTROLLER
    if "cgroup_disable=memory" in command_line and "cgroup_enable=memory" not in command_line:
        # Raspberry Pi's firmware puts cgroup_disable=memory first; a later cgroup_enable=memory wins.
        advice = "add `cgroup_enable=memory` to the one line of /boot/firmware/cmdline.txt and reboot"
    return Finding("cgroups", "warn", f"{version} without the memory controller (has {controllers or 'none'})", advice)


def configuration(source: str, warnings: Sequence[str]) -> Finding:
    """What is unwise in an edgehost.toml that could be read."""
    if warnings:
        return Finding("edgehost.toml", "warn", "; ".join(warnings), "mend what the line says")
    return Finding("edgehost.toml", "ok", source)


def broker(name: str, settings: Broker, ask: Callable[[Broker, float], str]) -> Finding:
    """Would the broker let us in? `ask` is edgehost.cli.broker_probe.probe. One that nobody asked for is no failure if it is
    away.
    """
    problem = ask(settings, min(settings.connect_timeout_s, BROKER_WAIT_S))
    label = f"broker {name}" if name else "broker"
    if not problem:
        return Finding(label, "ok", f"{settings.url} answers, MQTT {settings.version}")
    found, _, advice = problem.partition("; ")
    if settings is DEFAULT_BROKER:
        advice = "only mqtt triggers and outputs need one: `apt install mosquitto`, or `edgehost run --broker embedded`"
        return Finding(label, "warn", found, advice)
    return Finding(label, "fail", found, advice or "see [brokers] in edgehost.toml")


def clock(root: Path, year: int, kernel_synchronised: Callable[[], bool | None]) -> Finding:
    """Is the clock right? A device without a battery starts in the past until it has asked a time server."""
    if year < BUILT_YEAR:
        return Finding("clock", "fail", f"the year is {year}", CLOCK_ADVICE)
    if (root / "run/systemd/timesync/synchronized").exists():
        return Finding("clock", "ok", "synchronised by systemd-timesyncd")
    synchronised = kernel_synchronised()
    if synchronised:
        return Finding("clock", "ok", "the kernel says it is synchronised")
    found = "the kernel says it is not synchronised" if synchronised is False else "unknown whether it is synchronised"
    return Finding("clock", "warn", found, CLOCK_ADVICE)


def serial_ports(root: Path, profile: Profile, usable: Usable) -> Finding:
    """May we open the serial ports that are there? Of /dev/ttyS* only those the board has, for a kernel makes some up; and none
    that is a console.
    """
    usual = (path for pattern in SERIAL_GLOBS for path in (root / "dev").glob(pattern))
    own = (root / port.path.lstrip("/") for port in profile.serial.values())
    consoles = text_of(root / "sys/class/tty/console/active").split()
    ports = {path.resolve(): path for path in (*usual, *own) if path.exists() and path.resolve().name not in consoles}
    return _devices("serial ports", sorted(ports.values()), usable, "dialout")


def gpio_chips(root: Path, usable: Usable) -> Finding:
    """May we open the GPIO chips that are there?"""
    return _devices("gpio chips", sorted((root / "dev").glob("gpiochip*")), usable, "gpio")


def _devices(name: str, paths: Sequence[Path], usable: Usable, usual_group: str) -> Finding:
    refused = [path for path in paths if not usable(path)]
    if not paths:
        return Finding(name, "ok", "none")
    if not refused:
        return Finding(name, "ok", ", ".join(path.name for path in paths))
    group = _group(refused[0]) or usual_group
    advice = f"`sudo usermod -aG {group} USER`, with the user the agent runs as; log in again"
    if group == "root":
        advice = f"only root may open it; a udev rule can give it to the group {usual_group}"
    return Finding(name, "warn", f"no right to open {', '.join(path.name for path in refused)}", advice)


def onnxruntime(ask: Callable[[], subprocess.CompletedProcess[str]]) -> Finding:
    """Do onnx models run here? `ask` runs ONNX_PROBE in a process of its own: a broken build takes down only that."""
    try:
        answer = ask()
    except subprocess.TimeoutExpired:
        return Finding("onnxruntime", "fail", f"importing it takes over {ONNX_WAIT_S:g} s", ONNX_REINSTALL)
    except OSError as error:
        found = f"unknown: {sys.executable} cannot be started to import it: {error.strerror}"
        return Finding("onnxruntime", "warn", found, "run this check as the user the agent runs as")
    if answer.returncode < 0:
        found = f"importing it ends with signal {-answer.returncode}: this build is not for this CPU"
        return Finding("onnxruntime", "fail", found, "install another version of onnxruntime")
    if answer.returncode > 0:
        reason = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        if "No module named 'onnxruntime'" in reason:
            return Finding("onnxruntime", "warn", "not installed", "for onnx models: pip install 'edgehost[onnx]'")
        return Finding("onnxruntime", "fail", reason, ONNX_REINSTALL)
    version, providers = msgspec.json.decode(answer.stdout, type=tuple[str, list[str]])
    names = ", ".join(provider.removesuffix("ExecutionProvider") for provider in providers)
    return Finding("onnxruntime", "ok", f"{version}, built with {names}")


def temporary_folder(folder: Path, free_bytes: Callable[[Path], int], usable: Usable) -> Finding:
    """Is there room to write?"""
    if not usable(folder):
        return Finding("temporary folder", "fail", f"{folder} cannot be written", "set TMPDIR to a folder this user may write")
    free = free_bytes(folder)
    found = f"{folder}, {free // MIB:,} MiB free"
    if free >= SOME_BYTES:
        return Finding("temporary folder", "ok", found)
    state: State = "fail" if free < LITTLE_BYTES else "warn"
    return Finding("temporary folder", state, found, "make room, or set TMPDIR to a larger disk")


def memory(root: Path) -> Finding:
    """Is there memory for an agent and a few workers?"""
    values = dict(line.split(":", 1) for line in text_of(root / "proc/meminfo").splitlines() if ":" in line)
    if "MemAvailable" not in values:
        return Finding("memory", "warn", "unknown: /proc/meminfo says nothing", "mount /proc")
    available, total = (int(values[key].split()[0]) // 1024 for key in ("MemAvailable", "MemTotal"))
    found = f"{available:,} of {total:,} MiB available"
    if available < 64:
        return Finding("memory", "warn", found, "an agent with two functions takes about 40 MiB; end something else")
    return Finding("memory", "ok", found)


def kernel(release: str, memfd: bool, pidfd: bool, landlock: int) -> Finding:
    """Does the kernel have what the engine uses? `landlock` is the ABI's number, 0 without it."""
    found = f"{release}, memfd {_yes(memfd)}, pidfd {_yes(pidfd)}, Landlock {landlock or 'no'}"
    if not (memfd and pidfd):
        return Finding("kernel", "fail", found, "the engine needs Linux 5.4 or newer (memfd_create, pidfd_open)")
    if not landlock:
        return Finding("kernel", "warn", found, "functions cannot be confined to their files; a kernel with lsm=landlock,… can")
    return Finding("kernel", "ok", found)


def installed_version(package: str) -> str:
    """The version of an installed distribution; raises PackageNotFoundError."""
    return metadata.version(package)


def text_of(path: Path) -> str:
    """What is in a file; "" if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def may_read_and_write(path: Path) -> bool:
    """By access(2), for this process."""
    return os.access(path, os.R_OK | os.W_OK)


def free_bytes(folder: Path) -> int:
    """What this user may still write there."""
    return shutil.disk_usage(folder).free


def ask_onnxruntime() -> subprocess.CompletedProcess[str]:
    """Import it in a process of its own."""
    return subprocess.run([sys.executable, "-c", ONNX_PROBE], capture_output=True, text=True, timeout=ONNX_WAIT_S, check=False)


def _versions(names: Sequence[str], version: Callable[[str], str]) -> tuple[list[str], list[str]]:
    there, missing = [], []
    for name in names:
        try:
            there.append(f"{name} {version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    return there, missing


def _group(path: Path) -> str:
    try:
        return grp.getgrgid(path.stat().st_gid).gr_name
    except (KeyError, OSError):
        return ""


def _yes(there: bool) -> str:
    return "yes" if there else "no"
