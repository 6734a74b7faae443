"""The file system of a lab machine, as layers: a Debian root, the Python packages edgehost needs, and this checkout.

    Debian     mmdebstrap, Debian's packages alone; cached until the list below changes
    packages   a virtual environment with the dependencies of pyproject.toml; cached until those change
    checkout   the wheel of this tree installed there, and its tests in SOURCES; made anew for each run

`assembled` lays them over each other (overlayfs), so nothing is copied and a run changes none of them. Mounts are made in the
lab's own mount namespace: they end with it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from tools.laboratory.cache import PROJECT, Cache
from tools.laboratory.command import call

Architecture = Literal["amd64", "arm64"]

SUITE = "bookworm"
PACKAGES = (
    *("systemd", "systemd-sysv", "udev", "kmod", "procps", "iproute2", "openssh-server", "ca-certificates"),
    *("python3", "python3-venv", "socat"),
)
LEFT_OUT = ("man", "locale", "doc", "info", "lintian", "bug")
EXTRAS = ("gpio", "modbus", "http", "nuclio")
ENVIRONMENT = "/opt/lab"
"""The virtual environment inside of a lab machine."""
SOURCES = "/srv/edgehost"
"""The checkout's tests, and what they read, inside of a lab machine."""
CARRIED = ("pyproject.toml", "tests", "examples", "device_profiles", "systemd", "docs", "dist", "README.md")
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"


def debian(cache: Cache, architecture: Architecture) -> Path:
    """The Debian root. A foreign architecture needs its binfmt registration first."""
    options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
    command = [
        *("mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", f"--architectures={architecture}"),
        *(f"--include={','.join(PACKAGES)}", '--aptopt=Acquire::Languages "none"', "--dpkgopt=force-unsafe-io"),
        *options,
    ]
    return cache.made(f"debian-{architecture}", command, lambda folder: _bootstrap(command, folder))


def _bootstrap(command: Sequence[str], folder: Path) -> None:
    call(*command, SUITE, folder)
    for name in ("etc/machine-id", "etc/resolv.conf", "etc/hostname"):
        (folder / name).write_text("")


def packages(cache: Cache, architecture: Architecture) -> Path:
    """The layer with the virtual environment, made by the root's own Python with pip over the host's network."""
    below = debian(cache, architecture)
    wanted = requirements()
    return cache.made(
        f"packages-{architecture}", [below.name, ENVIRONMENT, wanted], lambda folder: _install(folder, below, wanted)
    )


def requirements() -> list[str]:
    """What pyproject.toml asks for, without what a lab machine does without (onnxruntime alone would double it)."""
    project = msgspec.toml.decode((PROJECT / "pyproject.toml").read_bytes())
    found = list(project["project"]["dependencies"])
    for extra in EXTRAS:
        found += project["project"]["optional-dependencies"][extra]
    return sorted(found + project["dependency-groups"]["test"])


def _install(folder: Path, below: Path, wanted: Sequence[str]) -> None:
    with assembled([below], upper=folder) as root, as_host(root):
        python = f"{ENVIRONMENT}/bin/python"
        call("chroot", root, "python3", "-m", "venv", ENVIRONMENT)
        call("chroot", root, python, "-m", "pip", "install", "--quiet", "--no-cache-dir", *wanted, environment=_pip_environment())


@contextmanager
def as_host(root: Path) -> Iterator[None]:
    """While this lasts, the root resolves names and trusts authorities as the host does, and has /dev and /proc."""
    folders = [(f"/{name}", name) for name in ("dev", "dev/pts", "proc")]
    mounts = [*folders, ("/etc/resolv.conf", "etc/resolv.conf"), (f"/{AUTHORITIES}", AUTHORITIES)]
    done: list[Path] = []
    try:
        for source, target in mounts:
            if Path(source).exists():
                call("mount", "--bind", source, root / target)
                done.append(root / target)
        yield
    finally:
        for place in reversed(done):
            call("umount", place)


def _pip_environment() -> dict[str, str]:
    """The host's index and proxy, and nothing else of its environment: its paths mean nothing in the root."""
    kept = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    return {name: value for name, value in os.environ.items() if name.upper() in kept}


@contextmanager
def checkout(cache: Cache) -> Iterator[Path]:
    """The layer of this tree: edgehost as its wheel installs it, compiled, and its tests. It suits every architecture."""
    below = [packages(cache, "amd64"), debian(cache, "amd64")]
    with tempfile.TemporaryDirectory(prefix="edgehost-lab-") as folder:
        layer = Path(folder) / "layer"
        layer.mkdir()
        wheel = _wheel(Path(folder))
        with assembled(below, upper=layer) as root:
            shutil.copy(wheel, root / "tmp")
            call("chroot", root, f"{ENVIRONMENT}/bin/pip", "install", "--quiet", "--no-deps", "--no-index", f"/tmp/{wheel.name}")
            (root / "tmp" / wheel.name).unlink()
        _carry(layer / SOURCES.lstrip("/"))
        yield layer


def _wheel(into: Path) -> Path:
    build = "import sys, hatchling.build as b; print(b.build_wheel(sys.argv[1]))"
    return into / call(sys.executable, "-c", build, into, cwd=PROJECT).split()[-1]


def _carry(into: Path) -> None:
    into.mkdir(parents=True)
    for name in CARRIED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, into / name, ignore=shutil.ignore_patterns("__pycache__", "*.onnx"))
        elif source.exists():
            shutil.copy2(source, into / name)


@contextmanager
def assembled(layers: Sequence[Path], upper: Path | None = None) -> Iterator[Path]:
    """The layers, the first one on top, mounted as one folder. What is changed there lands in `upper`, else it is forgotten."""
    # The work folder has to be on the file system of the upper one.
    with tempfile.TemporaryDirectory(prefix="edgehost-lab-", dir=upper.parent if upper else None) as name:
        folders = [Path(name) / part for part in ("root", "work", "upper")]
        for folder in folders:
            folder.mkdir()
        root, work, scratch = folders
        lower = ":".join(str(layer) for layer in layers)
        options = f"lowerdir={lower},upperdir={upper or scratch},workdir={work}"
        call("mount", "-t", "overlay", "overlay", "-o", options, root)
        try:
            yield root
        finally:
            call("umount", root)
