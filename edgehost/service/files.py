"""The files that make edgehost a service of this system: where each belongs, and what is in it on this device.

Pure, but for reading the templates that travel in the package (`edgehost/systemd`).
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Literal

from msgspec import Struct

Owner = Literal["person", "package"]
"""Who puts the files there: `sudo edgehost install`, or a distribution's package, whose files lie below /usr/lib."""

PROGRAM = PurePosixPath("/opt/edgehost/bin/edgehost")
"""What the templates call; `install` writes the path of its own program there."""
CONFIG = PurePosixPath("/etc/edgehost/edgehost.toml")
STATE = PurePosixPath("/var/lib/edgehost")
SECRETS = CONFIG.parent / "secrets"
RETRY_UNIT, UNIT = "edgehost-retry.timer", "edgehost.service"
DEVICE_GROUPS = ("dialout", "gpio", "i2c", "render", "spi", "video")
"""Groups that own devices on Debian, Raspberry Pi OS and Ubuntu; of these the service joins those that exist."""
SOME_WATCHDOG_S, MOST_WATCHDOG_S = 30, 60
FOLDERS_FROM = 250
"""The first systemd that takes a folder of credentials; an older one does not start a service that names one."""

_SHARED: dict[Owner, dict[str, str]] = {
    "person": {
        f"/etc/systemd/system/{UNIT}": UNIT,
        f"/etc/systemd/system/{RETRY_UNIT}": RETRY_UNIT,
        "/etc/sysusers.d/edgehost.conf": "sysusers.conf",
        "/etc/tmpfiles.d/edgehost.conf": "tmpfiles.conf",
        "/etc/udev/rules.d/60-edgehost.rules": "udev.rules",
    },
    "package": {
        f"/usr/lib/systemd/system/{UNIT}": UNIT,
        f"/usr/lib/systemd/system/{RETRY_UNIT}": RETRY_UNIT,
        "/usr/lib/sysusers.d/edgehost.conf": "sysusers.conf",
        "/usr/lib/tmpfiles.d/edgehost.conf": "tmpfiles.conf",
        "/usr/lib/udev/rules.d/60-edgehost.rules": "udev.rules",
    },
}
DROP_IN = f"/etc/systemd/system/{UNIT}.d/10-device.conf"
WATCHDOG = "/etc/systemd/system.conf.d/60-edgehost.conf"
JOURNAL = "/etc/systemd/journald.conf.d/60-edgehost.conf"
_OF_DEVICE = (DROP_IN, WATCHDOG, JOURNAL)


class Device(Struct, frozen=True):
    """What of this device the files depend on."""

    groups: tuple[str, ...] = ()
    """Those of DEVICE_GROUPS that exist."""
    pwm: tuple[str, ...] = ()
    """Folders of PWM chips in /sys, which the service may write."""
    watchdog_s: int = 0
    """What the hardware's watchdog is set to; 0: it is left alone."""
    small_journal: bool = False
    secrets: tuple[str, ...] | None = None
    """The files in SECRETS, for a systemd older than FOLDERS_FROM; None: it takes the folder."""


class File(Struct, frozen=True):
    """One file as it should be. `ours` False: it becomes the person's as soon as it is there."""

    path: PurePosixPath
    content: str
    ours: bool = True


def wanted(owner: Owner, program: PurePosixPath, device: Device) -> list[File]:
    """Every file, in the order to write them."""
    return [*shared(owner, program), *_of_device(device), File(CONFIG, template("edgehost.toml"), ours=False)]


def shared(owner: Owner, program: PurePosixPath) -> list[File]:
    """The files that are the same on every device."""
    return [
        File(PurePosixPath(path), template(name).replace(str(PROGRAM), str(program))) for path, name in _SHARED[owner].items()
    ]


def removable(owner: Owner) -> list[PurePosixPath]:
    """Every file that `install` may have written and `uninstall` takes away; a package's own go with the package."""
    own = _SHARED[owner] if owner == "person" else {}
    return [PurePosixPath(path) for path in (*own, *_OF_DEVICE)]


def template(name: str) -> str:
    """One file of `systemd/`, as it is in the package."""
    return (files("edgehost") / "systemd" / name).read_text()


def watchdog_s(most_s: int | None) -> int:
    """What to set a watchdog to that waits `most_s` at the longest (None: nobody knows)."""
    return SOME_WATCHDOG_S if most_s is None else min(most_s - 1, MOST_WATCHDOG_S) if most_s > 1 else 1


def _of_device(device: Device) -> list[File]:
    found = [File(PurePosixPath(DROP_IN), _drop_in(device))]
    if device.watchdog_s:
        content = template("watchdog.conf").replace("@SECONDS@", str(device.watchdog_s))
        found.append(File(PurePosixPath(WATCHDOG), content))
    if device.small_journal:
        found.append(File(PurePosixPath(JOURNAL), template("journald.conf")))
    return found


def _drop_in(device: Device) -> str:
    lines = ["# Written by `edgehost install` for this device.", "[Service]"]
    if device.groups:
        lines += ["# The groups of devices that exist here.", f"SupplementaryGroups={' '.join(device.groups)}"]
    if device.pwm:
        lines.append("# PWM is driven through sysfs, which is read-only otherwise (ProtectKernelTunables=).")
        lines += [f"ReadWritePaths=-{path}" for path in device.pwm]
    return "\n".join([*lines, *_credentials(device.secrets), ""])


def _credentials(names: tuple[str, ...] | None) -> list[str]:
    """Each secret as a credential `secrets_NAME`. One by one, a file that is gone would keep the service from starting: it comes
    as an empty line instead, for systemd takes no default that is empty.
    """
    if names is None:
        return ["# Each file there is a credential of its own, secrets_NAME.", f"LoadCredential=secrets:{SECRETS}"]
    lines = ["# This systemd takes no folder of credentials: after a new secret, run `edgehost install` again."]
    for name in (name.replace("%", "%%") for name in names):
        lines += [f"LoadCredential=secrets_{name}:{SECRETS}/{name}", rf"SetCredential=secrets_{name}:\n"]
    return lines


def below(root: Path, path: PurePosixPath) -> Path:
    """A path of the system whose root folder is `root`."""
    return root / path.relative_to("/")
