"""Writes the functions under trial: one folder for each flow of messages.py, with the manifest that makes its promise."""

from __future__ import annotations

from pathlib import Path

from tools.ordeal.messages import BESIDE, BY_NAME

HANDLER = '''\
"""Answers with what it got. What a message's third word says is done to it: `once` fails at first, `doomed` until healed."""

import pathlib
import time

_HEALED = pathlib.Path(__file__).with_name("healed")
_seen = set()


def handler(context, event):
    flow, number, fate = event.body.split(b" ", 3)[:3]
    time.sleep(int(number) % 5 / 1000)
    if fate == b"once" and number not in _seen:
        _seen.add(number)
        raise RuntimeError("fails at first")
    if fate == b"doomed" and not _healed(int(number)):
        raise RuntimeError("doomed")
    if flow == b"B":
        context.publish("side", event.body)
    return event.body


def _healed(number):
    """The harness writes there up to which number all is well again."""
    return number <= int(_HEALED.read_text())
'''

_RETRY = '[retry]\nattempts = {attempts}\ndelay = "50ms"\nmax_delay = "{max_delay}"\n'
_PATIENT = _RETRY.format(attempts=1000, max_delay="1s")
"""Whatever is killed, an event does not run out of tries."""
_HASTY = _RETRY.format(attempts=6, max_delay="200ms")
"""A doomed event is a dead letter soon; six deaths of its worker in a row will not befall another."""
_DEDUPE = 'dedupe = { by = "id", keep = "1h" }\n'
_STORE = 'store = { full = "block" }\n'
"""No promise is kept by who drops what is too much."""
_SIDE = f'[outputs.side]\nkind = "mqtt"\ntopic = "{BESIDE}"\nqos = 1\non = "never"\n{_STORE}'


def _mqtt(flow: str) -> str:
    return f'[triggers.in]\nkind = "mqtt"\ntopics = ["in/{flow}"]\nqos = 1\n'


def _out(flow: str) -> str:
    return f'[outputs.out]\nkind = "mqtt"\ntopic = "out/{flow}"\nqos = {BY_NAME[flow].qos_out}\n{_STORE}'


MANIFESTS = {
    "A": _PATIENT + _mqtt("A") + _out("A"),
    "B": f"{_PATIENT}{_mqtt('B')}durable = true\n{_out('B')}{_SIDE}",
    "C": _PATIENT + _mqtt("C") + _DEDUPE + _out("C"),
    "D": f'{_PATIENT}[triggers.web]\nkind = "http"\ndurable = true\n{_DEDUPE}{_out("D")}',
    "E": f"{_HASTY}{_mqtt('E')}durable = true\n{_out('E')}",
    "F": f"{_PATIENT}{_mqtt('F')}durable = true\nmax_in_flight = 1\n{_out('F')}",
}
"""function.toml of each flow, without its head."""


def function_of(flow: str) -> str:
    """The name of a flow's function."""
    return f"flow-{flow.lower()}"


def write(folder: Path) -> list[Path]:
    """Make the bundles in `folder`; gives theirs."""
    made = []
    for flow, manifest in MANIFESTS.items():
        place = folder / function_of(flow)
        place.mkdir(parents=True)
        (place / "main.py").write_text(HANDLER)
        (place / "healed").write_text("-1")
        head = f'name = "{place.name}"\nhandler = "main:handler"\n'
        (place / "function.toml").write_text(head + manifest)
        made.append(place)
    return made


def heal(folder: Path, number: int) -> None:
    """From now on the doomed of E up to `number` succeed."""
    place = folder / function_of("E") / "healed"
    fresh = place.with_name("healed.new")
    fresh.write_text(str(number))
    fresh.replace(place)
