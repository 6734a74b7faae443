"""The disk of a virtual machine: Debian, the packages edgehost needs, the kernel modules a board asks for, a network and a key.

The checkout is not on it: a machine gets that when it has started, so the disk outlives every change of this tree.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.laboratory.cache import Cache
from tools.laboratory.command import call
from tools.laboratory.kernel import Kernel
from tools.laboratory.root import Architecture, assembled, debian, packages

SIZE = "2G"  # an SD card's size has to be a power of two
ADDRESS = "52:54:00:12:34:56"
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service"),
    *("systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount"),
    *("fstrim.timer", "getty@tty1.service", "kmod-static-nodes.service", "modprobe@drm.service", "systemd-hwdb-update.service"),
    *("systemd-pstore.service", "systemd-random-seed.service", "systemd-timesyncd.service", "systemd-update-utmp.service"),
    *("systemd-journal-flush.service", "systemd-network-generator.service", "systemd-networkd.socket"),
)
NETWORK = f"[Match]\nMACAddress={ADDRESS}\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
FILES = {
    "etc/hostname": "lab\n",
    "etc/hosts": "127.0.0.1 localhost lab\n",
    "etc/fstab": "",
    "etc/systemd/network/10-lab.network": NETWORK,
    "etc/ssh/sshd_config.d/lab.conf": "UseDNS no\nMaxSessions 64\n",
    "etc/environment": "PATH=/opt/lab/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
}


@dataclass(frozen=True)
class Image:
    """A disk (raw, not to be written to) and the key that opens the machine that runs from it."""

    folder: Path

    @property
    def disk(self) -> Path:
        """An ext4 file system without partitions."""
        return self.folder / "disk"

    @property
    def key(self) -> Path:
        """The private key of root."""
        return self.folder / "key"


def image(cache: Cache, architecture: Architecture, kernel: Kernel, modules: Sequence[str]) -> Image:
    """The image for a board with these modules on its disk, besides those its initramfs loads."""
    layers = [packages(cache, architecture), debian(cache, architecture)]
    recipe = [[layer.name for layer in layers], kernel.folder.name, modules, MASKED, FILES, SIZE]
    made = cache.made(f"image-{architecture}", recipe, lambda folder: _make(Image(folder), layers, kernel, modules))
    return Image(made)


def _make(made: Image, layers: Sequence[Path], kernel: Kernel, modules: Sequence[str]) -> None:
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", made.key)
    with tempfile.TemporaryDirectory(prefix="edgehost-lab-", dir=made.folder) as folder:
        top = Path(folder)
        _modules(top, kernel, modules)
        with assembled([top, *layers]) as root:
            _configure(root, made.key.with_suffix(".pub"))
            call("depmod", "-b", root, kernel.version)
            call("truncate", f"--size={SIZE}", made.disk)
            # A journal is what a power cut needs; its size is of no use here.
            call("mkfs.ext4", "-q", "-F", "-J", "size=4", "-E", "lazy_itable_init=1", "-d", root, made.disk)


def _modules(top: Path, kernel: Kernel, modules: Sequence[str]) -> None:
    target = top / "usr/lib/modules" / kernel.version
    source = kernel.folder / "tree/lib/modules" / kernel.version
    for file in kernel.modules(modules):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(source / name, target)


def _configure(root: Path, key: Path) -> None:
    for name, text in {**FILES, "etc/machine-id": f"{uuid.uuid4().hex}\n"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    units = root / "etc/systemd/system"
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    (units / "multi-user.target.wants/systemd-networkd.service").symlink_to("/lib/systemd/system/systemd-networkd.service")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(key, root / "root/.ssh/authorized_keys")
