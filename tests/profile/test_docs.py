"""docs/profiles.md is true: its profile loads, and its tables name every profile and every key with its default."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import NODEFAULT, Struct

from edgehost.config_toml import read_config
from edgehost.profile import load, names
from edgehost.profile.model import Gpio, Match, Port, Profile, Quirk, Sign, Storage, Watchdog

PAGE = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text()
CONFIG, OWN = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_every_profile_is_listed() -> None:
    listed = re.findall(r"`([\w-]+)`", PAGE.split("The Jetsons' header")[0])
    assert sorted(listed) == names()


def test_the_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "edgehost.toml").write_text(CONFIG)
    assert load(read_config(tmp_path / "edgehost.toml").profile).title == "Raspberry Pi Compute Module 4"


def test_the_profile_loads(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(OWN)
    own = load(tmp_path / "gateway.toml")
    assert own.title == "Acme Gateway 3"
    assert {name: str(own.gpio.find(name)) for name in ("x1-2", "X1-3", "X2_1", "BCM17")} == {
        "x1-2": "pinctrl-bcm2711 17",
        "X1-3": "pinctrl-bcm2711 GPIO27",
        "X2_1": "pcf8574 3",
        "BCM17": "pinctrl-bcm2711 17",
    }


@pytest.mark.parametrize(
    ("before", "struct"),
    [
        ("else replaces what is there.", Profile),
        ("`[match]`:", Match),
        ("`[gpio]`\n", Gpio),
        ("`[serial.NAME]`\n", Port),
        ("`[watchdog]`\n", Watchdog),
        ("`[storage]`\n", Storage),
        ("`[quirks.ID]`\n", Quirk),
        ("\n`sign`\n", Sign),
    ],
)
def test_every_key_is_there_with_its_default(before: str, struct: type[Struct]) -> None:
    table = PAGE.split(before)[1].lstrip().split("\n\n")[0 if before.endswith("\n") else 1 if struct is Match else 0]
    said = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", table, re.MULTILINE))
    tables = {"name", "match", "gpio", "serial", "watchdog", "storage", "quirks"} if struct is Profile else set()
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct) if field.name not in tables}
    assert set(said) - {"extends"} == set(fields)
    for name, field in fields.items():
        default = field.default if field.default_factory is NODEFAULT else field.default_factory()
        assert said[name].strip() == _written(default), name


def _written(default: Any) -> str:
    if default is NODEFAULT:
        return "needed"
    return "none" if default is None else f"`{json.dumps(default)}`"
