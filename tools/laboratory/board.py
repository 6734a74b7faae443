"""The boards QEMU stands in for: what a machine is made of, as data. Knows not how one is started or driven."""

from __future__ import annotations

from dataclasses import dataclass

from tools.laboratory.image import ADDRESS
from tools.laboratory.root import Architecture

PCI_DISK = ("-device", "virtio-blk-pci,drive=disk,addr=0x2")
PCI_NETWORK = ("-device", f"virtio-net-pci,netdev=network,romfile=,mac={ADDRESS}")
PCI_MODULES = ("configfs", "autofs4", "fuse", "virtio_net", "virtio-rng", "gpio-sim", "xhci_pci", "ftdi_sio", "softdog", "loop")


@dataclass(frozen=True)
class Board:
    """A kind of machine. `device_tree` is a file of Debian's kernel package; without one QEMU makes its own."""

    name: str
    architecture: Architecture
    emulator: tuple[str, ...]
    console: str
    disk: str
    disk_interface: str
    devices: tuple[str, ...]
    modules: tuple[str, ...]
    boots_within_s: float
    device_tree: str = ""


AMD64 = Board(
    name="amd64",
    architecture="amd64",
    emulator=("qemu-system-x86_64", "-machine", "q35,hpet=off", "-cpu", "max", "-smp", "2", "-m", "768"),
    console="ttyS0",
    disk="/dev/vda",
    disk_interface="none",
    devices=(*PCI_DISK, *PCI_NETWORK, "-device", "virtio-rng-pci", "-device", "qemu-xhci,id=usb"),
    modules=PCI_MODULES,
    boots_within_s=180.0,
)
ARM64 = Board(
    name="arm64",
    architecture="arm64",
    emulator=("qemu-system-aarch64", "-machine", "virt,gic-version=3", "-cpu", "cortex-a72", "-smp", "2", "-m", "768"),
    console="ttyAMA0",
    disk="/dev/vda",
    disk_interface="none",
    devices=(*PCI_DISK, *PCI_NETWORK, "-device", "virtio-rng-pci", "-device", "qemu-xhci,id=usb"),
    modules=PCI_MODULES,
    boots_within_s=180.0,
)
PI3 = Board(
    name="pi3",
    architecture="arm64",
    emulator=("qemu-system-aarch64", "-machine", "raspi3b", "-smp", "4", "-m", "1G"),
    console="ttyAMA0,115200 console=ttyS1,115200",
    disk="/dev/mmcblk0",
    disk_interface="sd",
    devices=("-device", f"usb-net,netdev=network,mac={ADDRESS}"),
    modules=("configfs", "autofs4", "fuse", "dwc2", "cdc_ether", "bcm2835", "sdhci-iproc", "bcm2835_wdt", "gpio-sim"),
    boots_within_s=400.0,
    device_tree="broadcom/bcm2837-rpi-3-b.dtb",
)
