"""One virtual machine under QEMU's own emulation: started, spoken to over ssh, its hardware changed through QMP, cut off, ended.

It reaches nothing outside of itself but this host's ssh client. Its disk is a layer over the image, so a machine that was cut off
boots again from what it had written, and the image stays as it is.

    start(snapshot)    goes on where the snapshot was taken, in about 2 s; without one it boots, in about 17 s
    power_cut()        SIGKILL of QEMU: what the guest had not flushed to its disk is gone
"""

from __future__ import annotations

import io
import json
import shlex
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tools.laboratory.board import Board
from tools.laboratory.command import LabError, call
from tools.laboratory.image import Image
from tools.laboratory.kernel import Kernel

SECURITY_MODULES = "lsm=landlock,yama,bpf"
QUIET = "quiet loglevel=4 audit=0 systemd.show_status=0 mitigations=off nokaslr panic=-1"
LAST_BYTES = 2000


class Machine:
    """A machine of this board. `folder` keeps its disk, its sockets and its logs. A context manager: it ends with the block."""

    def __init__(self, board: Board, kernel: Kernel, image: Image, folder: Path) -> None:
        self.folder = folder
        self.second_serial = folder / "serial"
        """A unix socket: the other end of ttyS1 (amd64)."""
        self._board = board
        self._kernel = kernel
        self._image = image
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.power_cut()

    @property
    def disk(self) -> Path:
        """What it has written (qcow2, over the image), and its snapshots."""
        return self.folder / "disk.qcow2"

    def start(self, snapshot: str = "") -> float:
        """Start it and wait until it answers; seconds that took. Raises LabError with the end of its console when it does not."""
        if not self.disk.exists():
            call("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self._image.disk, self.disk)
        began = time.monotonic()
        self._port = _free_port()
        with (self.folder / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(self._qemu(snapshot), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() - began > self._board.boots_within_s:
                raise LabError(f"the {self._board.name} machine does not answer\n{self._last_said()}")
            time.sleep(0.1)
        self.run(f"date --set=@{time.time():.2f}")  # a snapshot's is old, and a Raspberry Pi has no clock
        return time.monotonic() - began

    def run(self, command: str, given: bytes = b"", check: bool = True, within_s: float = 120.0) -> str:
        """Run a shell command as root; what it printed on both outputs. Raises LabError when it fails and `check` is set."""
        done = subprocess.run([*self._ssh(), command], input=given, capture_output=True, check=False, timeout=within_s)
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        if check and done.returncode != 0:
            raise LabError(f"exit status {done.returncode}: {command}\n{said}")
        return said

    def show(self, command: str) -> int:
        """Run a command with its output to ours, as it comes; its exit status."""
        return subprocess.run([*self._ssh(), command], stdin=subprocess.DEVNULL, check=False).returncode

    def begin(self, command: str) -> subprocess.Popen[bytes]:
        """Start a command that goes on beside others; a pipe each is its `stdin` and `stdout`."""
        return subprocess.Popen([*self._ssh(), command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def shell(self) -> int:
        """A shell for a person."""
        return subprocess.run([*self._ssh("-t")], check=False).returncode

    def until(self, command: str, within_s: float = 30.0) -> str:
        """Run a shell command until it succeeds; what it printed. Raises LabError with the last it printed after `within_s`."""
        once = f'if said=$({command} 2>&1); then echo "$said"; exit 0; fi'
        # Counted, and not by the clock: a test may set that.
        loop = f"for try in $(seq {within_s * 5:.0f}); do {once}; sleep 0.2; done"
        return self.run(f'{loop}; echo "$said"; exit 1', within_s=within_s * 3 + 60)

    def write(self, path: str, text: str) -> None:
        """Write a file, and the folders it needs."""
        self.run(f"mkdir -p $(dirname {shlex.quote(path)}) && cat >{shlex.quote(path)}", given=text.encode())

    def put(self, folder: Path, target: str = "/") -> None:
        """Copy what is in a folder of this host over a folder of the machine."""
        with subprocess.Popen(["tar", "--create", f"--directory={folder}", "."], stdout=subprocess.PIPE) as archive:
            subprocess.run(
                [*self._ssh(), f"mkdir -p {target} && tar --extract --keep-directory-symlink --directory={target}"],
                stdin=archive.stdout,
                check=True,
            )

    def qmp(self, command: str, **arguments: object) -> object:
        """One command of QEMU's machine protocol; its return value. Raises LabError when QEMU refuses."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.folder / "qmp"))
            with connection.makefile("rwb") as file:
                file.readline()  # the greeting
                _ask(file, "qmp_capabilities", {})
                return _ask(file, command, arguments)

    def plug(self, driver: str, name: str, **properties: object) -> None:
        """Add a device while it runs: `plug("usb-serial", "gps", chardev=..., bus="usb.0")`."""
        self.qmp("device_add", driver=driver, id=name, **properties)

    def unplug(self, name: str) -> None:
        """Pull a device out."""
        self.qmp("device_del", id=name)

    def snapshot(self, name: str) -> None:
        """Keep the machine as it is, memory and disk, in its disk file."""
        said = self.qmp("human-monitor-command", **{"command-line": f"savevm {name}"})
        if said:
            raise LabError(f"savevm {name}: {said}")

    def power_cut(self) -> None:
        """End it as a cut of its power would."""
        if self._process is not None:
            subprocess.run([*self._ssh("-O", "exit")], capture_output=True, check=False)
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        return subprocess.run([*self._ssh(), "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0

    def _last_said(self) -> str:
        files = [self.folder / "qemu.log", self.folder / "console"]
        return "\n".join(file.read_bytes()[-LAST_BYTES:].decode("utf-8", "replace") for file in files if file.exists())

    def _ssh(self, *options: str) -> list[str]:
        settings = {
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "ConnectTimeout": "5",
            "ControlMaster": "auto",
            "ControlPath": f"{self.folder}/ssh",
            "ControlPersist": "60",
        }
        spelled = [f"-o{name}={value}" for name, value in settings.items()]
        return ["ssh", "-q", *options, "-i", str(self._image.key), "-p", str(self._port), *spelled, "root@127.0.0.1"]

    def _qemu(self, snapshot: str) -> list[str]:
        board = self._board
        tree = ["-dtb", str(self._kernel.device_tree(board.device_tree))] if board.device_tree else []
        return [
            *("setpriv", "--pdeathsig", "KILL"),  # a lab that is killed leaves no machine behind
            *board.emulator,
            *("-accel", "tcg,thread=multi", "-nodefaults", "-display", "none", "-no-reboot"),
            *("-kernel", str(self._kernel.folder / "vmlinuz"), "-initrd", str(self._kernel.folder / "initramfs"), *tree),
            *("-append", f"console={board.console} root={board.disk} {QUIET} {SECURITY_MODULES}"),
            *("-drive", f"file={self.disk},format=qcow2,if={board.disk_interface},id=disk,cache=unsafe"),
            *("-netdev", f"user,id=network,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-:22"),
            *("-serial", f"file:{self.folder}/console"),
            *("-serial", f"unix:{self.second_serial},server=on,wait=off"),
            *("-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"),
            *board.devices,
            *(["-loadvm", snapshot] if snapshot else []),
        ]


def _ask(file: io.BufferedRWPair, command: str, arguments: dict[str, object]) -> object:
    file.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
    file.flush()
    while True:  # events come in between
        answer = json.loads(file.readline())
        if "error" in answer:
            raise LabError(f"QEMU refuses {command} {arguments}: {answer['error']['desc']}")
        if "return" in answer:
            return answer["return"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
