"""What `edgehost install` and `uninstall` would do, for any state of a system."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edgehost.service.files import (
    CONFIG,
    DROP_IN,
    JOURNAL,
    PROGRAM,
    RETRY_UNIT,
    SECRETS,
    UNIT,
    WATCHDOG,
    Device,
    removable,
    shared,
    wanted,
    watchdog_s,
)
from edgehost.service.plan import FUNCTIONS, Facts, Remove, Run, Write, to_install, to_uninstall

DEVICE = Device(("dialout", "gpio"), ("/sys/devices/pwm/pwmchip0",), 14, True)
FILES = wanted("person", PROGRAM, DEVICE)
DONE = Facts(
    {file.path: file.content for file in FILES}, user=True, folders=True, enabled=True, active=True, known=(UNIT, RETRY_UNIT)
)


def commands(steps: list[object]) -> list[str]:
    return [" ".join(step.command) for step in steps if isinstance(step, Run)]


def test_on_a_bare_system_everything_is_done_in_order() -> None:
    steps = to_install(FILES, Facts(), "/", start=True)
    assert [step.path for step in steps if isinstance(step, Write)] == [file.path for file in FILES]
    assert commands(steps) == [
        "systemd-sysusers edgehost.conf",
        "systemd-tmpfiles --create edgehost.conf",
        "udevadm control --reload",
        "udevadm trigger --subsystem-match=gpio --subsystem-match=pwm --subsystem-match=tty",
        "systemctl daemon-reload",
        "systemctl try-restart systemd-journald.service",
        "systemctl enable edgehost.service",
        "systemctl start edgehost.service",
    ]


def test_the_rules_of_a_package_are_read_again_when_their_group_is_there() -> None:
    """dpkg has put them there, and udev may have read them, before there was a group gpio."""
    files = wanted("package", PROGRAM, DEVICE)
    unpacked = Facts({file.path: file.content for file in shared("package", PROGRAM)})
    told = [line.split()[0] for line in commands(to_install(files, unpacked, "/", start=True))]
    assert told[:4] == ["systemd-sysusers", "systemd-tmpfiles", "udevadm", "udevadm"]
    done = Facts({file.path: file.content for file in files}, user=True, folders=True, enabled=True, active=True)
    assert to_install(files, done, "/", start=True) == []


def test_where_all_is_as_it_should_be_nothing_is_done() -> None:
    assert to_install(FILES, DONE, "/", start=True) == []


def test_an_image_is_told_its_root_and_nothing_is_started() -> None:
    told = commands(to_install(FILES, Facts(live=False), "/mnt", start=True))
    assert told == [
        "systemd-sysusers --root=/mnt edgehost.conf",
        "systemd-tmpfiles --root=/mnt --create edgehost.conf",
        "systemctl --root=/mnt enable edgehost.service",
    ]


def test_a_changed_unit_restarts_the_service_and_a_changed_configuration_is_the_persons() -> None:
    old = {**DONE.content, PurePosixPath(f"/etc/systemd/system/{UNIT}"): "old", CONFIG: "their own"}
    steps = to_install(FILES, replace(DONE, content=old), "/", start=True)
    assert [str(step) for step in steps] == [
        f"change /etc/systemd/system/{UNIT}",
        "run systemctl daemon-reload",
        "run systemctl restart edgehost.service",
    ]


def test_no_start_starts_nothing() -> None:
    assert "systemctl start edgehost.service" not in commands(to_install(FILES, Facts(), "/", start=False))


def test_without_systemd_sysusers_the_user_is_made_otherwise() -> None:
    told = commands(to_install(FILES, Facts(sysusers=False), "/", start=True))
    assert [line.split()[0] for line in told[:2]] == ["groupadd", "useradd"]


def test_uninstall_undoes_install_and_keeps_what_is_the_persons() -> None:
    steps = to_uninstall("person", DONE, "/", purge=False)
    assert {step.path for step in steps if isinstance(step, Remove)} == {file.path for file in FILES if file.ours}
    assert commands(steps)[0] == "systemctl stop edgehost.service edgehost-retry.timer"
    assert to_uninstall("person", Facts({CONFIG: ""}, user=True, folders=True), "/", purge=False) == []


@pytest.mark.parametrize("known", [(UNIT, RETRY_UNIT), (RETRY_UNIT,)])
def test_what_is_starting_or_waits_for_its_next_try_is_stopped_too(known: tuple[str, ...]) -> None:
    steps = to_uninstall("package", Facts(known=known), "/", purge=False)
    assert commands(steps) == [f"systemctl stop {' '.join(known)}"]


def test_purge_leaves_nothing() -> None:
    removed = [step.path for step in to_uninstall("person", DONE, "/", purge=True) if isinstance(step, Remove)]
    for path in (*DONE.content, SECRETS, FUNCTIONS):
        assert any(path == gone or gone in path.parents for gone in removed), path


def test_a_packages_own_files_go_with_the_package() -> None:
    assert set(removable("package")) == {PurePosixPath(path) for path in (DROP_IN, WATCHDOG, JOURNAL)}


PATHS, OWNERS = st.sampled_from([file.path for file in FILES]), st.sampled_from(["person", "package"])


@given(st.sets(PATHS), *(st.booleans() for _ in range(4)), OWNERS)
def test_install_after_its_own_steps_has_nothing_to_do(there, user, folders, enabled, active, owner) -> None:
    files = wanted(owner, PROGRAM, DEVICE)
    facts = Facts(dict.fromkeys(there, "old"), user, folders, enabled, active)
    after = dict(facts.content)
    after.update({step.path: step.content for step in to_install(files, facts, "/", start=True) if isinstance(step, Write)})
    assert to_install(files, Facts(after, True, True, True, True), "/", start=True) == []


@pytest.mark.parametrize(("most", "told"), [(None, 30), (15, 14), (600, 60), (1, 1)])
def test_a_watchdog_is_set_below_what_it_can_wait(most: int | None, told: int) -> None:
    assert watchdog_s(most) == told


def test_the_drop_in_names_the_groups_and_pwm_chips_of_this_device() -> None:
    content = next(file.content for file in FILES if str(file.path) == DROP_IN)
    assert "SupplementaryGroups=dialout gpio\n" in content
    assert "ReadWritePaths=-/sys/devices/pwm/pwmchip0\n" in content
    bare = next(file.content for file in wanted("person", PROGRAM, Device()) if str(file.path) == DROP_IN)
    assert "SupplementaryGroups" not in bare


def drop_in(device: Device) -> list[str]:
    return next(file.content.splitlines() for file in wanted("person", PROGRAM, device) if str(file.path) == DROP_IN)


def test_secrets_are_a_folder_of_credentials_or_one_by_one() -> None:
    assert f"LoadCredential=secrets:{SECRETS}" in drop_in(Device())
    old = [line for line in drop_in(Device(secrets=("db", "100%"))) if "Credential=" in line]
    assert old == [
        f"LoadCredential=secrets_db:{SECRETS}/db",
        r"SetCredential=secrets_db:\n",
        f"LoadCredential=secrets_100%%:{SECRETS}/100%%",
        r"SetCredential=secrets_100%%:\n",
    ]
    assert not [line for line in drop_in(Device(secrets=())) if "Credential=" in line]


def test_the_unit_calls_the_program_that_installs_it() -> None:
    unit = wanted("person", PurePosixPath("/srv/venv/bin/edgehost"), Device())[0].content
    assert "ExecStart=/srv/venv/bin/edgehost agent " in unit
    assert "ExecReload=/srv/venv/bin/edgehost reload\n" in unit
    assert str(PROGRAM) not in unit
