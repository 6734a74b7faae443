"""Debian's own kernel for a virtual machine, with the one module Debian leaves out: gpio-sim, chips whose lines a test moves.

All of it comes from Debian's packages when the lab first needs it; gpio-sim is compiled from Debian's kernel source. The work is
done in a Debian root that is forgotten afterwards, so the host gets no compiler and no headers.

    vmlinuz                     what QEMU boots
    initramfs                   loads the modules of the disk, mounts it, and goes on there
    tree/lib/modules/VERSION    Debian's modules, and gpio-sim under extra/
    dtb                         Debian's device trees (arm64)
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.laboratory.cache import Cache
from tools.laboratory.command import LabError, call, phase
from tools.laboratory.root import Architecture, as_host, assembled, debian

SERIES = "6.1"
"""Debian 12's kernel series: its source package and its build scripts carry it in their names."""
DISK_MODULES = {
    "amd64": ("virtio_pci", "virtio_blk", "ext4"),
    "arm64": ("virtio_pci", "virtio_blk", "ext4", "bcm2835", "sdhci-iproc"),
}
SOURCES = ("drivers/gpio/gpio-sim.c", "drivers/gpio/gpiolib.h", "kernel/irq/irq_sim.c")
MAKEFILE = "obj-m := irq_sim.o gpio-sim.o\nccflags-y := -DCONFIG_IRQ_SIM=1\n"
# irq_to_desc() is not exported to modules, its inline twin is.
IRQ_SIM_CHANGES = (
    ("irq_to_desc(irqnum)", "irq_data_to_desc(irq_get_irq_data(irqnum))"),
    ("#include <linux/slab.h>", "#include <linux/slab.h>\n#include <linux/irqdesc.h>\n#include <linux/module.h>"),
)
QUIET = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
INIT = """\
#!/busybox sh
exec </dev/console >/dev/console 2>&1
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sys /sys
/busybox mount -t devtmpfs dev /dev
while read -r module; do /busybox insmod /modules/$module || echo "initramfs: insmod $module failed"; done </modules/order
for word in $(/busybox cat /proc/cmdline); do case $word in root=*) root=${word#root=} ;; esac; done
tries=0
while [ ! -b $root ] && [ $tries -lt 200 ]; do /busybox usleep 50000; tries=$((tries + 1)); done
/busybox mount -t ext4 -o rw,noatime $root /root || { echo "initramfs: cannot mount $root"; /busybox poweroff -f; }
/busybox umount /proc /sys
/busybox mount --move /dev /root/dev
exec /busybox switch_root /root /sbin/init
"""


@dataclass(frozen=True)
class Kernel:
    """A kernel's files in the cache."""

    folder: Path

    @property
    def version(self) -> str:
        """Such as 6.1.0-56-amd64."""
        return next((self.folder / "tree/lib/modules").iterdir()).name

    def device_tree(self, name: str) -> Path:
        """Debian's device tree of a board, such as broadcom/bcm2837-rpi-3-b.dtb (arm64)."""
        return self.folder / "dtb" / name

    def modules(self, names: Iterable[str]) -> list[Path]:
        """The files of these modules and of all they need, each once, in the order in which they load."""
        found: dict[Path, None] = {}
        for name in names:
            shown = call("modprobe", "-d", self.folder / "tree", "-S", self.version, "--show-depends", name)
            for line in shown.splitlines():
                word, _, file = line.partition(" ")
                if word == "insmod":
                    found[Path(file.strip())] = None
        return list(found)


def kernel(cache: Cache, architecture: Architecture) -> Kernel:
    """Debian's newest kernel of SERIES at the time it was first asked for."""
    recipe = [SERIES, MAKEFILE, IRQ_SIM_CHANGES, INIT, DISK_MODULES[architecture]]
    root = debian(cache, "amd64")
    return Kernel(cache.made(f"kernel-{architecture}", recipe, lambda folder: _make(folder, root, architecture)))


def _make(folder: Path, below: Path, architecture: Architecture) -> None:
    with assembled([below]) as root, as_host(root):
        (root / "build").mkdir()
        with phase("  kernel packages"):
            headers = _fetch(root, architecture)
        with phase("  gpio-sim"):
            _compile(root, headers, architecture)
        _collect(folder, root / "build")
    made = Kernel(folder)
    call("depmod", "-b", folder / "tree", made.version)
    _initramfs(made, made.modules(DISK_MODULES[architecture]))


def _fetch(root: Path, architecture: Architecture) -> str:
    """Install a compiler, unpack kernel and busybox in /build, leave the source package there; where the headers are."""
    foreign = architecture != "amd64"
    build = ["gcc", "make", "xz-utils", "linux-headers-amd64"] + (["gcc-aarch64-linux-gnu"] if foreign else [])
    if foreign:
        call("chroot", root, "dpkg", "--add-architecture", architecture)
    call("chroot", root, "apt-get", "update", "-qq")
    unsafe = "DPkg::Options::=--force-unsafe-io"
    call("chroot", root, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "-o", unsafe, *build, environment=QUIET)
    # linux-image-amd64 depends on the newest, such as linux-image-6.1.0-56-amd64; it names a foreign one with its architecture.
    depends = call("chroot", root, "apt-cache", "depends", f"linux-image-{architecture}:{architecture}")
    (name,) = re.findall(rf"Depends: (linux-image-{SERIES}\S*?-{architecture})\b", depends)
    wanted = [name, name.replace("image", "headers"), "busybox-static"]
    fetched = "cd /build && apt-get download -qq -o APT::Sandbox::User=root"
    call("chroot", root, "sh", "-c", f"{fetched} linux-source-{SERIES} {' '.join(f'{each}:{architecture}' for each in wanted)}")
    call("chroot", root, "sh", "-c", "cd /build && for each in linux-image-* busybox-*; do dpkg -x $each files; done")
    # A folder /lib in a package would take the place of the link /lib, so the headers alone are unpacked over the root.
    call("chroot", root, "sh", "-c", "cd /build && dpkg-deb --fsys-tarfile linux-headers-* | tar -x -C / ./usr/src")
    return f"/usr/src/{wanted[1]}"


def _compile(root: Path, headers: str, architecture: Architecture) -> None:
    source = root / "build/source"
    source.mkdir()
    names = " ".join(f"linux-source-{SERIES}/{name}" for name in SOURCES)
    # The archive is read to the last file wanted and not to its end, so its readers end by SIGPIPE.
    unpack = f"dpkg-deb --fsys-tarfile linux-source-*.deb | tar -xO ./usr/src/linux-source-{SERIES}.tar.xz | "
    unpack += f"tar -xJ -C source --strip-components=3 --occurrence=1 {names}"
    call("chroot", root, "sh", "-c", f"cd /build && {unpack}")
    text = (source / "irq_sim.c").read_text()
    for old, new in IRQ_SIM_CHANGES:
        if old not in text:
            raise LabError(f"irq_sim.c of this kernel has no {old!r}; the change it needs to be a module must be adapted")
        text = text.replace(old, new)
    (source / "irq_sim.c").write_text(text + 'MODULE_LICENSE("GPL");\n')
    (source / "Makefile").write_text(MAKEFILE)
    cross = ["ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-"] if architecture == "arm64" else []
    call("chroot", root, "make", "--silent", "-C", headers, *cross, "M=/build/source", "modules")


def _collect(folder: Path, build: Path) -> None:
    files = build / "files"
    (vmlinuz,) = (files / "boot").glob("vmlinuz-*")
    shutil.copy(vmlinuz, folder / "vmlinuz")
    shutil.copy(files / "bin/busybox", folder / "busybox")
    tree = folder / "tree/lib"
    tree.mkdir(parents=True)
    shutil.move(files / "lib/modules", tree / "modules")
    (version,) = (tree / "modules").iterdir()
    (version / "extra").mkdir()
    for module in ("irq_sim.ko", "gpio-sim.ko"):
        shutil.copy(build / "source" / module, version / "extra")
    for trees in (files / "usr/lib").glob("linux-image-*"):
        shutil.move(trees, folder / "dtb")


def _initramfs(made: Kernel, modules: Sequence[Path]) -> None:
    with tempfile.TemporaryDirectory(prefix="edgehost-lab-") as name:
        tree = Path(name)
        for folder in ("modules", "proc", "sys", "dev", "root"):
            (tree / folder).mkdir()
        for module in modules:
            shutil.copy(module, tree / "modules")
        (tree / "modules/order").write_text("".join(f"{module.name}\n" for module in modules))
        shutil.move(made.folder / "busybox", tree / "busybox")
        (tree / "init").write_text(INIT)
        (tree / "init").chmod(0o755)
        names = "\n".join(str(file.relative_to(tree)) for file in sorted(tree.rglob("*")))
        archive = made.folder / "initramfs"
        call("cpio", "--create", "--format=newc", "--quiet", f"--file={archive}", cwd=tree, given=names.encode())
