"""A board whose machine has been booted once: tests start from the snapshot taken then instead of from its firmware."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tools.laboratory.board import Board
from tools.laboratory.cache import Cache
from tools.laboratory.command import call, phase
from tools.laboratory.image import Image, image
from tools.laboratory.kernel import Kernel, kernel
from tools.laboratory.machine import Machine
from tools.laboratory.root import ENVIRONMENT

SNAPSHOT = "ready"
# Read once before the snapshot, so that no test waits for the disk to give them.
WARM = f"modprobe gpio-sim; {ENVIRONMENT}/bin/python -c 'import asyncio, msgspec, pytest, psutil, serial, gpiod'; sync"


@dataclass(frozen=True)
class Prepared:
    """All that machines of a board start from."""

    board: Board
    kernel: Kernel
    image: Image
    booted: Path
    """The folder with the disk that has the snapshot."""

    def machine(self, folder: Path) -> Machine:
        """A machine with its files in `folder`, not started: `start(SNAPSHOT)`, or `start()` for a cold boot."""
        machine = Machine(self.board, self.kernel, self.image, folder)
        call("cp", "--sparse=always", "--reflink=auto", self.booted / machine.disk.name, machine.disk)
        return machine

    def with_layer(self, layer: Path, folder: Path, command: str = "") -> Prepared:
        """The same with the files of a layer on its disk, and a command run there; its snapshot is kept in `folder`."""
        with self.machine(folder) as machine:
            machine.start(SNAPSHOT)
            machine.put(layer)
            machine.run(f"{command}\nsync")
            machine.snapshot(SNAPSHOT)
        return replace(self, booted=folder)


def prepared(cache: Cache, board: Board) -> Prepared:
    """Made once, which takes minutes; from the cache in no time."""
    its_kernel = kernel(cache, board.architecture)
    its_image = image(cache, board.architecture, its_kernel, board.modules)
    recipe = [its_kernel.folder.name, its_image.folder.name, board.emulator, board.devices, WARM]
    booted = cache.made(f"booted-{board.name}", recipe, lambda folder: _boot(folder, board, its_kernel, its_image))
    return Prepared(board, its_kernel, its_image, booted)


def _boot(folder: Path, board: Board, its_kernel: Kernel, its_image: Image) -> None:
    with Machine(board, its_kernel, its_image, folder) as machine:
        with phase("  boot"):
            machine.start()
        machine.run("systemctl is-system-running --wait || { systemctl --failed --no-legend; exit 1; }")
        machine.run(WARM)
        with phase("  snapshot"):
            machine.snapshot(SNAPSHOT)
    for file in folder.iterdir():
        if file != machine.disk:
            file.unlink()
