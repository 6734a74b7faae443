"""A PWM channel over a folder that looks like sysfs: no machine of ours has the hardware."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgehost.gpio import pwm as pwm_module
from edgehost.gpio.pwm import Pwm, PwmSettings
from edgehost.gpio.trouble import GpioError
from tests.gpio import kernel_pwm


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pwmchip0 with channel 1 exported and never set up."""
    monkeypatch.setattr(pwm_module, "_put", kernel_pwm.put)
    return kernel_pwm.make(tmp_path / "pwmchip0" / "pwm1")


def state(channel: Path) -> dict[str, str]:
    return {file.name: file.read_text().strip() for file in channel.iterdir()}


def test_a_channel_is_set_up_run_and_disabled(channel: Path, tmp_path: Path) -> None:
    pwm = Pwm(PwmSettings(channel=1, frequency_hz=50), tmp_path)
    pwm.open()
    assert state(channel) == {"enable": "0", "duty_cycle": "0", "period": "20000000", "polarity": "normal"}
    pwm.set(0.075)
    assert state(channel)["duty_cycle"] == "1500000" and state(channel)["enable"] == "1"
    pwm.set(1)
    assert state(channel)["duty_cycle"] == "20000000"
    pwm.rest()
    assert state(channel) == {"enable": "0", "duty_cycle": "0", "period": "20000000", "polarity": "normal"}
    Pwm(PwmSettings(channel=1, frequency_hz=50, safe_duty=0.5), tmp_path).rest()
    assert state(channel)["duty_cycle"] == "10000000" and state(channel)["enable"] == "1"


def test_a_channel_that_runs_is_set_up_anew(channel: Path, tmp_path: Path) -> None:
    Pwm(PwmSettings(channel=1), tmp_path).open()
    Pwm(PwmSettings(channel=1), tmp_path).set(1)
    Pwm(PwmSettings(channel=1, frequency_hz=1_000_000, polarity="inversed"), tmp_path).open()
    assert state(channel) == {"enable": "0", "duty_cycle": "0", "period": "1000", "polarity": "inversed"}


def test_settings_that_are_refused_leave_it_as_it_was(channel: Path, tmp_path: Path) -> None:
    with pytest.raises(GpioError, match=r"refuses pwm1/period = 100000000000; try another frequency_hz"):
        Pwm(PwmSettings(channel=1, frequency_hz=0.01), tmp_path).open()
    assert state(channel) == {"enable": "0", "duty_cycle": "0", "period": "0", "polarity": "normal"}
    Pwm(PwmSettings(channel=1), tmp_path).open()
    Pwm(PwmSettings(channel=1), tmp_path).set(0.5)
    with pytest.raises(GpioError):
        Pwm(PwmSettings(channel=1, frequency_hz=0.01), tmp_path).open()
    assert state(channel) == {"enable": "1", "duty_cycle": "500000", "period": "1000000", "polarity": "normal"}


def test_the_polarity_is_written_only_where_it_differs(channel: Path, tmp_path: Path) -> None:
    Pwm(PwmSettings(channel=1, polarity="inversed"), tmp_path).open()
    assert state(channel)["polarity"] == "inversed"
    (channel / "polarity").unlink()  # a driver that knows one polarity
    Pwm(PwmSettings(channel=1), tmp_path).open()
    assert not (channel / "polarity").exists()


def test_a_channel_nobody_exported_is_exported(channel: Path, tmp_path: Path) -> None:
    """The kernel makes the folder while the write lasts; here it appears afterwards, as under a slow udev."""
    export = channel.parent / "export"
    export.write_text("")
    pwm = Pwm(PwmSettings(channel=2), tmp_path)
    with pytest.raises(GpioError, match="pwm2 has not appeared") as caught:
        pwm.open()
    assert export.read_text() == "2" and caught.value.state == "degraded"
    channel.rename(channel.parent / "pwm2")
    pwm.open()


def test_no_chip_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(GpioError, match=r"no .*/pwmchip3; enable the board's PWM first") as caught:
        Pwm(PwmSettings(chip=3), tmp_path).open()
    assert caught.value.state == "failed"


def test_a_channel_that_goes_is_told(channel: Path, tmp_path: Path) -> None:
    pwm = Pwm(PwmSettings(channel=1), tmp_path)
    pwm.open()
    channel.rename(tmp_path / "gone")
    with pytest.raises(GpioError, match="has no channel 1, or has gone"):
        pwm.set(0.5)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_no_permission_says_which_group(channel: Path, tmp_path: Path) -> None:
    (channel / "enable").chmod(0o400)
    with pytest.raises(GpioError, match=r"no permission for .*group gpio"):
        Pwm(PwmSettings(channel=1), tmp_path).open()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (22, "refuses pwm1/period = 1000000; try another"),
        (16, "a driver in the kernel uses"),
        (13, "no permission"),
        (5, "Input/output"),
    ],
)
def test_what_the_kernel_refuses_is_told(
    channel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refuse(path: Path, value: str) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pwm_module, "_put", refuse)
    with pytest.raises(GpioError, match=said):
        Pwm(PwmSettings(channel=1), tmp_path).open()
