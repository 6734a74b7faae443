"""Installing into the root folder of a system that is being built, with systemd's own tools; and refusing what cannot work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgehost.errors import InstallError
from edgehost.service.system import check_able, check_readable, look_at_device, program_for, systemd_version

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners: needs root")


def edgehost(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from edgehost.cli.app import run; sys.exit(run(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root folder of a system with users and the group video, and nothing else."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nvideo:x:44:\n")
    return tmp_path


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() or path.is_symlink()}


@as_root
@pytest.mark.needs("systemctl", "systemd-sysusers", "systemd-tmpfiles")
def test_install_twice_and_uninstall_twice(root: Path) -> None:
    before = files(root)
    first = edgehost("install", f"--root={root}", "--profile=raspberry-pi-4b")
    assert first.returncode == 0, first.stderr
    assert (root / "etc/systemd/system/multi-user.target.wants/edgehost.service").is_symlink()
    assert "edgehost:x:" in (root / "etc/passwd").read_text()
    assert "gpio:x:" in (root / "etc/group").read_text()
    assert "SupplementaryGroups=gpio video\n" in (root / "etc/systemd/system/edgehost.service.d/10-device.conf").read_text()
    assert "RuntimeWatchdogSec=14s" in (root / "etc/systemd/system.conf.d/60-edgehost.conf").read_text()
    assert "SystemMaxUse" in (root / "etc/systemd/journald.conf.d/60-edgehost.conf").read_text()
    assert (root / "etc/edgehost/secrets").stat().st_mode & 0o777 == 0o700
    installed = files(root)
    assert edgehost("install", f"--root={root}", "--profile=raspberry-pi-4b").stdout.startswith("already as it should be\n")
    assert files(root) == installed
    assert "kept: " in edgehost("uninstall", f"--root={root}").stdout
    assert edgehost("uninstall", f"--root={root}").stdout.startswith("already as it should be\n")
    assert {"etc/edgehost/edgehost.toml"} == {name for name in files(root) - before if "edgehost" in name}
    assert edgehost("uninstall", f"--root={root}", "--purge").returncode == 0
    assert not [name for name in files(root) if "edgehost" in name]
    assert not (root / "var/lib/edgehost").exists()


def test_a_dry_run_changes_nothing_and_needs_no_rights(root: Path) -> None:
    before = files(root)
    done = edgehost("install", f"--root={root}", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "would write /etc/systemd/system/edgehost.service\n" in done.stdout
    assert files(root) == before


def test_without_root_it_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InstallError, match="run it as root, sudo "):
        check_able(tmp_path)


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs here")
def test_without_systemd_it_says_what_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(InstallError, match="systemd does not run here"):
        check_able(Path("/"), start=True)
    check_able(Path("/"), start=False)


def test_a_program_that_the_service_cannot_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match=r"which the service cannot see .*python3 -m venv /opt/edgehost"):
        check_readable(tmp_path)
    check_readable(Path("/usr/bin"))


def test_a_program_in_an_image_is_where_images_have_it(tmp_path: Path) -> None:
    assert str(program_for(tmp_path)) == "/opt/edgehost/bin/edgehost"


def test_an_unknown_device_has_no_watchdog_and_its_own_journal(root: Path) -> None:
    device = look_at_device(root, None, True, None)
    assert (device.groups, device.watchdog_s, device.small_journal) == (("gpio", "video"), 0, False)


@pytest.mark.parametrize(
    ("library", "version", "secrets"),
    [
        ("usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-252.so", 252, None),  # Debian 12
        ("usr/lib/aarch64-linux-gnu/systemd/libsystemd-shared-250.so", 250, None),
        ("lib/systemd/libsystemd-shared-249.so", 249, ("db",)),  # Ubuntu 22.04, JetPack 6
        ("usr/lib/systemd/libsystemd-shared-247.so", 247, ("db",)),  # Debian 11
        ("usr/lib/systemd/libsystemd-core-252.so", 0, ("db",)),
    ],
)
def test_an_old_systemd_is_told_of_each_secret(root: Path, library: str, version: int, secrets: tuple[str, ...] | None) -> None:
    for name in (library, "etc/edgehost/secrets/db", "etc/edgehost/secrets/a:b", "etc/edgehost/secrets/folder/c"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert systemd_version(root) == version
    assert look_at_device(root, None, True, None).secrets == secrets


def test_without_a_folder_of_secrets_there_are_none(root: Path) -> None:
    assert look_at_device(root, None, True, None).secrets == ()


@pytest.mark.needs("systemctl")
def test_the_library_has_the_version_systemd_says() -> None:
    said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, timeout=10).stdout
    assert said.startswith(f"systemd {systemd_version(Path('/'))} ")
