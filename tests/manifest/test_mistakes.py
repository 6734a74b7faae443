"""Every mistake a person can make in a function.toml is one line: file, key, value, what is allowed. The lines are kept whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgehost.errors import ManifestError
from edgehost.manifest.model import Manifest

H = 'handler = "main:handler"\n'
MQTT = H + '[triggers.temp]\nkind = "mqtt"\n'
TEMP = MQTT + 'topics = ["a"]\n'
WEB = H + '[triggers.web]\nkind = "http"\n'
CRON = H + '[triggers.tick]\nkind = "cron"\n'
LOG = H + '[outputs.note]\nkind = "log"\n'
ONNX = 'runtime = "onnx"\n[onnx]\nmodel = "m"\n'

TOP_KEYS = (
    "body, concurrency, debug, description, drain, drain_timeout_s, env, handler, limits, log_level, name, on_loop, outputs, "
    "preload, queue, retry, runtime, sandbox, secrets, start_timeout_s, timeout_s, triggers, version or workers"
)
DURATION = 'use a number of seconds, or text such as "500ms", "30s" or "1h30m"'
EXCEPTION = 'use the name of an exception, such as "ValueError", or with its module, such as "app.BadReading"'
SIZE = 'use a number of bytes, or text such as "128MiB" or "4 MB"'

MISTAKES = [
    # the function itself
    ("", 'handler: missing; the runtime python needs one, as in "main:handler" (module:function)'),
    ('handler = "main"', 'handler: "main" has no colon; write module:function'),
    ("handler = 3", 'handler: 3 is not allowed; use text, in quotes: "3"'),
    (
        H + 'name = "Bad Name"',
        'name: "Bad Name" is not allowed; use 1 to 63 of a-z, 0-9, - and _, with a letter or digit first and last',
    ),
    (H + "name = ''", 'name: "" is not allowed; use 1 to 63 of a-z, 0-9, - and _, with a letter or digit first and last'),
    (H + "version = 1.2", 'version: 1.2 is not allowed; use text, in quotes: "1.2"'),
    (H + "name = 2026-01-01", 'name: 2026-01-01 is not allowed; use text, in quotes: "2026-01-01"'),
    (H + "workers = 0", "workers: 0 is not allowed; use an integer from 1 to 256"),
    (H + 'workers = "two"', 'workers: "two" is not allowed; use an integer from 1 to 256'),
    (H + "workers = 1.5", "workers: 1.5 is not allowed; use an integer from 1 to 256"),
    (H + "workers = true", "workers: true is not allowed; use an integer from 1 to 256"),
    (
        H + "workers = 200\nconcurrency = 1000",
        "concurrency: 200 workers of 1000 are 200000 events at once; use 10000 at most",
    ),
    (H + 'timeout = "30 parsecs"', f'timeout: "30 parsecs" is not allowed; {DURATION}'),
    (H + 'timeout_s = ""', f'timeout_s: "" is not allowed; {DURATION}'),
    (H + "timeout = 0", "timeout_s: 0 is not allowed; use a number above 0 and up to 31622400"),
    (H + "timeout_s = inf", "timeout_s: inf is not allowed; use a number above 0 and up to 31622400"),
    (H + "timeout_s = nan", "timeout_s: nan is not allowed; use a number above 0 and up to 31622400"),
    (H + "timeout = 3\ntimeout_s = 4", "timeout_s: timeout_s is given twice, with its unit in the key and without; keep one"),
    (H + 'body = "views"', 'body: "views" is not allowed; use "bytes" or "view"'),
    (H + "on_loop = 1", "on_loop: 1 is not allowed; use true or false"),
    (H + 'preload = "numpy"', 'preload: "numpy" is not allowed; use a list of text'),
    (H + 'preload = ["a", 3]', 'preload[1]: 3 is not allowed; use text, in quotes: "3"'),
    # unknown keys
    (H + "timout = 3", "timout: no such key; did you mean timeout_s?"),
    (H + "trigers = 3", "trigers: no such key; did you mean triggers?"),
    (H + "zzz = 3", f"zzz: no such key; use {TOP_KEYS}"),
    (H + 'folder = "/"', f"folder: no such key; use {TOP_KEYS}"),
    (H + '"\\n" = 3', f'"\\n": no such key; use {TOP_KEYS}'),
    # tables of the function
    (H + "queue = 3", "queue: 3 is not allowed; use a table with size or policy"),
    (H + "[queue]\nsze = 1", "[queue].sze: no such key; did you mean size?"),
    (H + "[queue]\nsize = -1", "[queue].size: -1 is not allowed; use an integer from 1 up"),
    (
        H + '[queue]\npolicy = "drop"',
        '[queue].policy: "drop" is not allowed; use "block", "drop_newest", "drop_oldest" or "reject"',
    ),
    (H + "[retry]\nattempts = 0", "[retry].attempts: 0 is not allowed; use an integer from 1 up"),
    (H + '[retry]\ndelay = "2m"', "[retry].delay_s: 120 is more than max_delay_s, 60; raise that, or lower this"),
    (H + '[retry]\npermanent = "ValueError"', '[retry].permanent: "ValueError" is not allowed; use a list of text'),
    *(
        (
            H + f'[retry]\npermanent = ["KeyError", "{name}"]',
            f'[retry].permanent[1]: "{name}" is not allowed; {EXCEPTION}',
        )
        for name in ("value-error", "ValueError()", "app.", ".BadReading", "app..BadReading", "f.<locals>.Bad", "Value Error", "")
    ),
    (
        H + '[retry]\non = ["permanent"]',
        '[retry].on[0]: "permanent" is not allowed; use "no_worker", "queue_full", "raised", "timeout" or "worker_died"',
    ),
    (H + "[env]\nPORT = 8080", '[env].PORT: 8080 is not allowed; use text, in quotes: "8080"'),
    (H + '[env]\n"A=B" = "x"', '[env]."A=B": cannot name an environment variable; use letters, digits and _'),
    (H + '[env]\nA = "\\u0000"', "[env].A: holds a NUL character, which an environment variable cannot"),
    (H + '[limits]\nmemory = "128Q"', f'[limits].memory: "128Q" is not allowed; {SIZE}'),
    (H + "[limits]\nmemory_bytes = 1.5", "[limits].memory_bytes: 1.5 is not allowed; use an integer from 1 up"),
    (H + "[limits]\nniceness = 30", "[limits].niceness: 30 is not allowed; use an integer from -20 to 19"),
    # triggers
    (H + "triggers = 3", "triggers: 3 is not allowed; use tables [triggers.NAME]"),
    (H + '[[triggers]]\nkind = "mqtt"', "triggers: a list is not allowed; use tables [triggers.NAME]"),
    (H + '[triggers]\ntemp = "mqtt"', '[triggers].temp: "mqtt" is not allowed; use a table'),
    (
        H + '[triggers.temp]\ntopics = ["a"]',
        "[triggers.temp].kind: missing; write the kind of trigger: cron, fussy, http, mqtt",
    ),
    (H + '[triggers.temp]\nkind = "mqt"', '[triggers.temp].kind: there is no trigger "mqt"; did you mean mqtt?'),
    (H + '[triggers.temp]\nkind = "x"', '[triggers.temp].kind: there is no trigger "x"; use cron, fussy, http or mqtt'),
    (H + "[triggers.temp]\nkind = 3", "[triggers.temp].kind: 3 is not allowed; use text"),
    (
        H + '[triggers."a b"]\nkind = "cron"',
        '[triggers."a b"]: cannot be a name; use up to 63 letters, digits, -, _ and ., no sign first or last',
    ),
    (MQTT, "[triggers.temp].topics: missing; write a list of text, with at least one"),
    (MQTT + "topics = []", "[triggers.temp].topics: an empty list is not allowed; use a list of text, with at least one"),
    (MQTT + 'topics = "a"', '[triggers.temp].topics: "a" is not allowed; use a list of text, with at least one'),
    (MQTT + 'topics = ["a", 3]', '[triggers.temp].topics[1]: 3 is not allowed; use text, in quotes: "3"'),
    (MQTT + 'topics = ["a/#/b"]', "[triggers.temp].topics: 'a/#/b' is not a topic filter; '#' may only be the last level"),
    (TEMP + "qos = 3", "[triggers.temp].qos: 3 is not allowed; use an integer from 0 to 2"),
    (TEMP + 'qos = "1"', '[triggers.temp].qos: "1" is not allowed; use an integer from 0 to 2'),
    (TEMP + "qso = 1", "[triggers.temp].qso: no such key; did you mean qos?"),
    (TEMP + "bath = 1", "[triggers.temp].bath: no such key; did you mean batch?"),
    (TEMP + "max_in_flight = 0", "[triggers.temp].max_in_flight: 0 is not allowed; use an integer from 1 up"),
    (TEMP + "share = true", "[triggers.temp].share: true is not allowed; use a number"),
    (TEMP + "batch = 5", "[triggers.temp].batch: 5 is not allowed; use a table with size or wait_s"),
    (TEMP + "batch = {}", "[triggers.temp.batch].size: missing; write an integer from 1 up"),
    (TEMP + "batch = { size = 0 }", "[triggers.temp.batch].size: 0 is not allowed; use an integer from 1 up"),
    (TEMP + 'batch = { size = 5, wait = "x" }', f'[triggers.temp.batch].wait: "x" is not allowed; {DURATION}'),
    (
        TEMP + "batch = { size = 5000 }",
        "[triggers.temp.batch].size: 5000 is more than the queue holds, 1000; lower it, or raise [queue].size",
    ),
    (WEB + 'routes = ["x"]', '[triggers.web].routes[0]: "x" is not allowed; use text that matches ^/'),
    (WEB + 'methods = ["PUT"]', '[triggers.web].methods[0]: "PUT" is not allowed; use "GET" or "POST"'),
    (WEB + 'body_limit = "big"', f'[triggers.web].body_limit: "big" is not allowed; {SIZE}'),
    (
        WEB + "[triggers.web.cors]\nallow_orgins = []",
        "[triggers.web.cors].allow_orgins: no such key; did you mean allow_origins?",
    ),
    (WEB + '[triggers.web.cors]\nmax_age = "x"', f'[triggers.web.cors].max_age: "x" is not allowed; {DURATION}'),
    (CRON + 'every = "soon"', f'[triggers.tick].every: "soon" is not allowed; {DURATION}'),
    (CRON + "headers = { a = 1 }", '[triggers.tick.headers].a: 1 is not allowed; use text, in quotes: "1"'),
    (H + '[triggers.f]\nkind = "fussy"\nport = 1', "[triggers.f]: port 0 is the only one there is"),
    # outputs
    (H + '[outputs.note]\nkind = "lag"', '[outputs.note].kind: there is no output "lag"; did you mean log?'),
    (LOG + 'lvel = "info"', "[outputs.note].lvel: no such key; did you mean level?"),
    (LOG + 'on = "fail"', '[outputs.note].on: "fail" is not allowed; use "always", "failure", "never" or "success"'),
    (
        LOG + 'triggers = ["tmp"]\n[triggers.temp]\nkind = "cron"',
        '[outputs.note].triggers[0]: "tmp" is not a trigger of this function; did you mean temp?',
    ),
    (
        LOG + 'triggers = ["tmp"]',
        '[outputs.note].triggers[0]: "tmp" is not a trigger of this function; nothing is allowed here',
    ),
    # runtimes
    ('runtime = "pyton"', 'runtime: there is no runtime "pyton"; did you mean python?'),
    ("runtime = 3", "runtime: 3 is not allowed; use text"),
    (
        H + '[onnx]\nmodel = "m"',
        '[onnx]: the runtime is "python", which has no table; write runtime = "onnx", or remove this table',
    ),
    (H + "[python]", '[python]: the runtime is "python", which has no table; remove this table'),
    ('runtime = "onnx"', "[onnx].model: missing; write text that is not empty"),
    (ONNX, "[onnx].model: there is no m"),
    (ONNX + "threads = 65", "[onnx].threads: 65 is not allowed; use an integer from 1 to 64"),
    (ONNX + "top_k = 3", "[onnx].top_k: 3 is not allowed; use an integer that is a multiple of 2"),
    (ONNX + "scale = 1", "[onnx].scale: 1 is not allowed; use a number above 0 and below 1"),
    # the text of the file
    ("handler = ", "line 1, end of the file: not TOML: invalid value"),
    ("\nhandler = main", "line 2, column 11: not TOML: invalid value"),
    (H + H, "line 2, column 25: the same key is written twice; keep one"),
    ("[queue]\n[queue]", "line 2, column 7: [queue] is written twice; keep one"),
    (TEMP + '[triggers.temp]\nkind = "http"', "line 5, column 15: [triggers.temp] is written twice; keep one"),
]


@pytest.mark.parametrize(("text", "line"), MISTAKES)
def test_mistake_is_one_line_that_says_where_what_and_what_is_allowed(
    text: str, line: str, read: Callable[[str], Manifest]
) -> None:
    with pytest.raises(ManifestError) as caught:
        read(text)
    said = str(caught.value)
    assert said.removeprefix("thermostat/function.toml").removeprefix(":").strip() == line
    assert said.startswith("thermostat/function.toml")
    assert "\n" not in said


def test_long_and_hostile_values_are_shown_short_and_escaped(read: Callable[[str], Manifest]) -> None:
    with pytest.raises(ManifestError) as caught:
        read(H + f'body = "{"x" * 500}\\n\\u001b[31m"')
    assert len(str(caught.value)) < 200
    with pytest.raises(ManifestError) as caught:
        read(H + 'body = "\\n\\u001b[31m"')
    assert r"\n\u001b[31m" in str(caught.value)
