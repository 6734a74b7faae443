"""The text of a new profile for this machine, to be edited by a person: extends the one in force and fills in what is known."""

from __future__ import annotations

import json

from edgehost.profile.board import Recognised
from edgehost.profile.profile_toml import names

_TEXT = """\
# A profile of one board. What it does not say is as in {extends}; `edgehost profile --json` shows that.
{extends_line}title = {title}
cores = {cores}

[match]
compatible = {compatible}
architecture = []

# [gpio]
# chips = ["LABEL"]               # as `gpiodetect` shows it in brackets
# [gpio.lines]
# DOOR = 17                       # an offset on the first chip, or a line's name: "GPIO17"
# [gpio.headers]
# X1 = ["3V3", "DOOR", "GND"]     # pin 1, 2, 3: DOOR is X1-2 too

# [serial.field]
# path = "/dev/ttyS1"
# note = "RS-485, terminals 3 and 4"

# [quirks.fan]
# what = "the fan stops under load"
# do = "keep workers at 2"
# source = "measured"
"""


def draft(found: Recognised) -> str:
    """TOML that loads as it is."""
    facts = found.facts
    return _TEXT.format(
        extends=found.profile.name,
        extends_line=f"extends = {json.dumps(found.profile.name)}\n" if found.profile.name in names() else "",
        title=json.dumps(facts.model or facts.dmi or found.profile.title, ensure_ascii=False),
        cores=found.profile.cores,
        compatible=json.dumps(facts.compatible[:1]),
    )
