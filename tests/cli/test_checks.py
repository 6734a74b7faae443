"""Each check tells a good machine from a bad one, on machines played to it, and says what to do."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from edgehost.cli import checks, kernel_probe
from edgehost.config import Broker
from edgehost.engine import landlock
from edgehost.profile import load, recognise
from edgehost.profile.here import look

PI_COMMAND_LINE = "coherent_pool=1M cgroup_disable=memory console=tty1 root=PARTUUID=1-02"
V1 = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t4\t14\t{}\n"


@pytest.fixture
def root(tmp_path):
    """`root({"proc/cmdline": "..."})`: the root of a machine with these files."""

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("version", "state"), [((3, 9, 2), "fail"), ((3, 10, 0), "ok"), ((3, 13, 9), "ok"), ((3, 14, 0), "warn"), ((4, 0, 0), "warn")]
)
def test_python(version, state):
    assert checks.python(version).state == state


@pytest.mark.parametrize(
    ("architecture", "bits", "state", "advice"),
    [
        ("aarch64", 64, "ok", ""),
        ("x86_64", 64, "ok", ""),
        ("armv7l", 32, "warn", "install a 64-bit system"),
        ("aarch64", 32, "warn", "install a 64-bit system"),
        ("riscv64", 64, "warn", "pip builds them"),
    ],
)
def test_machine(root, architecture, bits, state, advice):
    found = recognise(root({"proc/device-tree/model": "Raspberry Pi 4 Model B\0"}), architecture)
    finding = checks.machine(found, bits)
    assert finding.state == state and advice in finding.advice
    assert finding.found == f"Raspberry Pi 4 Model B (profile raspberry-pi-4b), {architecture}, {bits}-bit Python"


def test_what_is_special_about_the_board_is_told_while_it_holds(root):
    pi = load("raspberry-pi-4b")
    machine = root({"proc/cmdline": "console=ttyS0,115200", "sys/fs/cgroup/cgroup.controllers": "cpu\n", "dev/tty0": ""})
    (finding,) = checks.quirks(pi, look(pi, machine, "6.1"))
    assert (finding.name, finding.state) == ("board", "warn")
    assert "login console" in finding.found and "raspi-config" in finding.advice
    (machine / "proc/cmdline").write_text("console=tty1")
    assert list(checks.quirks(pi, look(pi, machine, "6.1"))) == []


def test_packages_names_what_is_missing():
    def version(name: str) -> str:
        if name == "psutil":
            raise PackageNotFoundError(name)
        return "1.0"

    finding = checks.packages(version)
    assert (finding.state, finding.found, finding.advice) == ("fail", "missing: psutil", "pip install psutil")
    assert checks.packages(lambda name: "1.0").state == "ok"
    assert checks.http(lambda name: "1.0").found == "uvicorn 1.0, starlette 1.0"


def test_without_the_http_extra_http_is_a_warning():
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    finding = checks.http(version)
    assert finding.state == "warn" and "pip install 'edgehost[http]'" in finding.advice


@pytest.mark.parametrize(
    ("files", "state", "found", "advice"),
    [
        ({"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n"}, "ok", "v2 with cpuset, cpu, io, memory, pids", ""),
        ({"sys/fs/cgroup/cgroup.controllers": "cpu io\n"}, "warn", "v2 without the memory controller (has cpu, io)", "watched"),
        (
            {"sys/fs/cgroup/cgroup.controllers": "cpu\n", "proc/cmdline": PI_COMMAND_LINE},
            "warn",
            "v2 without the memory controller (has cpu)",
            "add `cgroup_enable=memory` to the one line of /boot/firmware/cmdline.txt and reboot",
        ),
        (
            {"sys/fs/cgroup/cgroup.controllers": "cpu\n", "proc/cmdline": PI_COMMAND_LINE + " cgroup_enable=memory"},
            "warn",
            "v2 without the memory controller (has cpu)",
            "watched",
        ),
        ({"sys/fs/cgroup/cgroup.controllers": "\n"}, "warn", "v2 without the memory controller (has none)", "watched"),
        ({"proc/cgroups": V1.format(1)}, "ok", "v1 with cpu, memory", ""),
        ({"proc/cgroups": V1.format(0)}, "warn", "v1 without the memory controller (has cpu)", "watched"),
        ({}, "warn", "none", "watched"),
    ],
)
def test_cgroups(root, files, state, found, advice):
    finding = checks.cgroups(root(files))
    assert (finding.state, finding.found) == (state, found)
    assert advice in finding.advice and bool(advice) == bool(finding.advice)


def test_a_broker_that_answers_is_ok():
    finding = checks.broker("default", Broker("mqtt://b"), lambda broker, timeout_s: "")
    assert (finding.name, finding.state, finding.found) == ("broker default", "ok", "mqtt://b answers, MQTT 5")


def test_a_brokers_trouble_is_split_into_what_and_what_to_do():
    finding = checks.broker("", Broker("mqtt://b"), lambda broker, timeout_s: "the broker refused us; set a password")
    assert finding == checks.Finding("broker", "fail", "the broker refused us", "set a password")


def test_a_probe_waits_no_longer_than_the_broker_may_take():
    waits = []
    for connect_timeout_s in (1.5, 60.0):
        settings = Broker("mqtt://b", connect_timeout_s=connect_timeout_s)
        checks.broker("", settings, lambda broker, timeout_s: waits.append(timeout_s) or "")
    assert waits == [1.5, checks.BROKER_WAIT_S]


@pytest.mark.parametrize(
    ("files", "year", "kernel", "state"),
    [
        ({}, 1970, True, "fail"),
        ({"run/systemd/timesync/synchronized": ""}, 2031, False, "ok"),
        ({}, 2031, True, "ok"),
        ({}, 2031, False, "warn"),
        ({}, 2031, None, "warn"),
    ],
)
def test_clock(root, files, year, kernel, state):
    finding = checks.clock(root(files), year, lambda: kernel)
    assert finding.state == state and ("timedatectl" in finding.advice) == (state != "ok")


def test_devices_that_are_not_there_are_nothing_to_worry_about(root):
    assert checks.serial_ports(root({"dev/tty0": ""}), load("generic-x86_64"), lambda path: False).found == "none"
    assert checks.gpio_chips(root({}), lambda path: False).state == "ok"


def test_devices_one_may_open_are_listed(root):
    machine = root({f"dev/{name}": "" for name in ("ttyUSB0", "ttyACM1", "ttyAMA0", "gpiochip0", "tty0")})
    assert checks.serial_ports(machine, load("generic-x86_64"), lambda path: True).found == "ttyACM1, ttyAMA0, ttyUSB0"
    assert checks.gpio_chips(machine, lambda path: True) == checks.Finding("gpio chips", "ok", "gpiochip0")


def test_the_boards_own_ports_are_looked_at_but_for_the_console(root):
    files = {f"dev/ttyS{number}": "" for number in range(4)}
    beaglebone = root({**files, "sys/class/tty/console/active": "tty0 ttyS0\n"})
    assert checks.serial_ports(beaglebone, load("beaglebone-black"), lambda path: True).found == "ttyS1, ttyS2"


def test_a_port_by_two_names_is_one(root):
    pi = root({"dev/ttyS0": "", "dev/ttyAMA0": ""})
    (pi / "dev/serial0").symlink_to("ttyS0")
    assert checks.serial_ports(pi, load("raspberry-pi-4b"), lambda path: True).found == "serial0, ttyAMA0"
    (pi / "dev/serial0").unlink()
    (pi / "dev/serial0").symlink_to("ttyAMA0")
    assert checks.serial_ports(pi, load("raspberry-pi-4b"), lambda path: True).found == "serial0"


def test_a_port_one_may_not_open_names_the_group_to_join(root, monkeypatch):
    machine = root({"dev/ttyUSB0": "", "dev/ttyUSB1": ""})
    monkeypatch.setattr(checks, "_group", lambda path: "dialout")
    finding = checks.serial_ports(machine, load("generic-x86_64"), lambda path: path.name != "ttyUSB1")
    assert (finding.state, finding.found) == ("warn", "no right to open ttyUSB1")
    assert "sudo usermod -aG dialout USER" in finding.advice
    monkeypatch.setattr(checks, "_group", lambda path: "root")
    assert "udev rule" in checks.gpio_chips(root({"dev/gpiochip0": ""}), lambda path: False).advice


def said(code: int, out: str = "", err: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, out, err)


@pytest.mark.parametrize(
    ("answer", "state", "found"),
    [
        (said(0, json.dumps(["1.3", ["CUDAExecutionProvider", "CPUExecutionProvider"]])), "ok", "1.3, built with CUDA, CPU"),
        (said(1, err="Traceback\nModuleNotFoundError: No module named 'onnxruntime'\n"), "warn", "not installed"),
        (said(1, err="ImportError: libcudart.so.12: cannot open\n"), "fail", "ImportError: libcudart.so.12: cannot open"),
        (said(1), "fail", "no message"),
        (said(-4), "fail", "importing it ends with signal 4: this build is not for this CPU"),
    ],
)
def test_onnxruntime(answer, state, found):
    finding = checks.onnxruntime(lambda: answer)
    assert (finding.state, finding.found) == (state, found) and bool(finding.advice) == (state != "ok")


def test_an_onnxruntime_that_hangs_fails():
    def hang() -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired("python", checks.ONNX_WAIT_S)

    assert checks.onnxruntime(hang).found == "importing it takes over 120 s"


def test_a_python_that_this_user_may_not_start_is_no_end_of_the_check():
    def refuse() -> subprocess.CompletedProcess[str]:
        raise PermissionError(13, "Permission denied")

    finding = checks.onnxruntime(refuse)
    assert finding.state == "warn" and "cannot be started to import it: Permission denied" in finding.found


@pytest.mark.parametrize(
    ("free", "usable", "state"),
    [(0, True, "fail"), (20 * checks.MIB, True, "warn"), (1 << 40, True, "ok"), (1 << 40, False, "fail")],
)
def test_temporary_folder(free, usable, state):
    finding = checks.temporary_folder(Path("/tmp"), lambda folder: free, lambda folder: usable)
    assert finding.state == state and bool(finding.advice) == (state != "ok")


@pytest.mark.parametrize(
    ("text", "state", "found"),
    [
        ("MemTotal: 948304 kB\nMemAvailable: 524288 kB\n", "ok", "512 of 926 MiB available"),
        ("MemTotal: 948304 kB\nMemAvailable: 32768 kB\n", "warn", "32 of 926 MiB available"),
        ("", "warn", "unknown: /proc/meminfo says nothing"),
    ],
)
def test_memory(root, text, state, found):
    finding = checks.memory(root({"proc/meminfo": text}))
    assert (finding.state, finding.found) == (state, found)


@pytest.mark.parametrize(
    ("features", "state"),
    [((True, True, 4), "ok"), ((True, True, 0), "warn"), ((False, True, 4), "fail"), ((True, False, 4), "fail")],
)
def test_kernel(features, state):
    assert checks.kernel("6.1", *features).state == state


@pytest.mark.parametrize(
    ("why_not", "state", "found"),
    [("", "ok", "memory, processes and cpu by cgroup"), ("no cgroup v2", "warn", "cpu is not enforced for an agent started")],
)
def test_limits(why_not, state, found):
    finding = checks.limits(why_not)
    assert finding.state == state and found in finding.found
    assert why_not in finding.found


@pytest.mark.parametrize(
    ("abi", "state", "found"),
    [
        (7, "ok", "Landlock 7 keeps files, devices, signals, TCP ports"),
        (2, "ok", "Landlock 2 keeps files; not TCP ports, devices, signals: that needs a newer kernel"),
        (0, "warn", "functions are not kept from each other's files: this kernel has no Landlock"),
    ],
)
def test_sandbox(abi, state, found):
    finding = checks.sandbox(abi)
    assert (finding.state, finding.found) == (state, found)


def test_configuration():
    assert checks.configuration("/e.toml", ()).state == "ok"
    assert checks.configuration("/e.toml", ("a", "b")).found == "a; b"


def test_this_kernel_answers_every_question():
    assert kernel_probe.has_memfd() and kernel_probe.has_pidfd()
    assert landlock.version() in range(100)
    assert kernel_probe.clock_synchronised() in (True, False, None)


def test_check_shows_every_finding_and_ends_by_the_worst(cli, monkeypatch):
    from edgehost.cli import check

    found = [checks.Finding("one", "ok", "fine"), checks.Finding("two", "warn", "hm", "do it")]
    monkeypatch.setattr(check, "_findings", lambda brokers, settings: iter(found))
    result = cli("check")
    assert (result.code, [line.rstrip() for line in result.out.splitlines()]) == (
        0,
        ["ok    one               fine", "warn  two               hm", " " * 24 + "→ do it", "", "1 ok, 1 warn, 0 fail"],
    )
    found.append(checks.Finding("three", "fail", "no", "mend it"))
    assert cli("check").code == 1
    as_json = cli("check", "--json")
    assert as_json.code == 1 and as_json.json["ok"] is False
    assert as_json.json["findings"][2] == {"name": "three", "state": "fail", "found": "no", "advice": "mend it"}


def test_check_runs_on_this_machine(program, free_port):
    result = program("check", "--json", "--broker", f"mqtt://127.0.0.1:{free_port()}")
    findings = {finding["name"]: finding for finding in result.json["findings"]}
    assert findings["python"]["state"] == findings["packages"]["state"] == "ok"
    assert {"journal", "journal disk", "journal room"} <= findings.keys()
    assert findings["broker"]["state"] == "fail" and "nothing listens there" in findings["broker"]["found"]
    assert result.code == 1


def test_check_refuses_a_profile_that_is_wrong(program, tmp_path):
    config = tmp_path / "edgehost.toml"
    config.write_text("[agent]\nprofile = 'raspberry-pi-6'\n")
    result = program("check", "--config", config, "--json")
    assert (result.code, result.error["error"]) == (3, "config")
    assert "raspberry-pi-6" in result.error["message"]


def test_check_reads_the_configuration(program, tmp_path):
    config = tmp_path / "edgehost.toml"
    config.write_text("[brokers.x]\nurl = 'http://b'\n")
    result = program("check", "--config", config, "--json")
    assert (result.code, result.error["error"]) == (3, "config")
    assert "brokers.x" in result.error["message"]
