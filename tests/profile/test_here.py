"""A profile held against a machine: quirks that hold, ports that are there, degrees."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from edgehost.profile import load
from edgehost.profile.here import Here, controllers, holds, look
from edgehost.profile.model import Sign

PI = "coherent_pool=1M cgroup_disable=memory console=ttyS0,115200 console=tty1 root=PARTUUID=1-02"
V1 = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t4\t14\t0\n"


def version(package: str) -> str:
    if package == "onnxruntime":
        return "1.21.0"
    raise PackageNotFoundError(package)


@pytest.mark.parametrize(
    ("sign", "files", "expected"),
    [
        (Sign(controller_missing="memory"), {"sys/fs/cgroup/cgroup.controllers": "cpu io\n"}, True),
        (Sign(controller_missing="memory"), {"sys/fs/cgroup/cgroup.controllers": "cpu memory io\n"}, False),
        (Sign(controller_missing="memory"), {"proc/cgroups": V1}, True),
        (Sign(controller_missing="cpu"), {"proc/cgroups": V1}, False),
        (Sign(kernel_argument="console=tty[AS]*"), {"proc/cmdline": PI}, True),
        (Sign(kernel_argument="console=ttyAMA0*"), {"proc/cmdline": PI}, False),
        (Sign(kernel_argument="console=ttyAMA0*"), {"proc/cmdline": "console=ttyAMA10,115200"}, False),
        (Sign(kernel_below="6.2"), {}, True),
        (Sign(kernel_below="6.1"), {}, False),
        (Sign(kernel_below="5.10"), {}, False),
        (Sign(package="onnxruntime 1.21.*"), {}, True),
        (Sign(package="onnxruntime 1.22.*"), {}, False),
        (Sign(package="onnxruntime-gpu *"), {}, False),
        (Sign(path="/dev/ttyS0"), {"dev/ttyS0": ""}, True),
        (Sign(path="/dev/ttyS0"), {}, False),
        (Sign(path_missing="/dev/ttyS0"), {}, True),
        (Sign(path="/dev/ttyS0", kernel_argument="console=ttyS0*"), {"dev/ttyS0": ""}, False),
        (Sign(path="/dev/ttyS0", kernel_argument="console=ttyS0*"), {"dev/ttyS0": "", "proc/cmdline": PI}, True),
    ],
)
def test_signs(root, sign: Sign, files: dict[str, str], expected: bool) -> None:
    assert holds(sign, root(files=files), "6.1.0-56-arm64", version) is expected


def test_a_machine_without_cgroups_offers_no_controller(root) -> None:
    assert controllers(root()) == frozenset()


def test_a_raspberry_pi_as_it_is_delivered(root) -> None:
    files = {
        "proc/cmdline": PI,
        "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "47225\n",
        "sys/class/thermal/thermal_zone1/type": "wifi\n",
        "sys/class/thermal/thermal_zone1/temp": "N/A\n",
        "sys/class/watchdog/watchdog0/identity": "Broadcom BCM2835 Watchdog timer\n",
        "dev/ttyS0": "",
    }
    machine = root(files=files)
    (machine / "dev/serial0").symlink_to("ttyS0")
    assert look(load("raspberry-pi-4b"), machine, "6.6.20", version) == Here(
        {"memory-controller": True, "serial-console": True, "mini-uart": True, "onnxruntime-1_21": True},
        {"serial0": "/dev/ttyS0"},
        {"cpu-thermal": 47.225},
        "Broadcom BCM2835 Watchdog timer",
    )


def test_an_empty_machine(root) -> None:
    here = look(load("beaglebone-black"), root(), "6.1", version)
    assert here == Here({}, dict.fromkeys(("ttyS0", "ttyS1", "ttyS2", "ttyS4"), ""), {}, "")


def test_this_machine_can_be_looked_at() -> None:
    assert isinstance(look(load("generic-x86_64"), Path("/"), "6.1"), Here)
