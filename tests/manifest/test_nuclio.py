"""Nuclio's function.yaml and its inline block give the same Manifest a function.toml does; what is not used is warned about."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgehost.errors import ManifestError
from edgehost.manifest import read_manifest
from edgehost.manifest.model import Batch, Manifest
from edgehost.manifest.nuclio_block import block_text, has_block

Read = Callable[[str], Manifest]

FULL = """
apiVersion: nuclio.io/v1
kind: NuclioFunction
metadata:
  name: cold-store
  namespace: plant
  labels: {nuclio.io/project-name: cooling}
spec:
  description: >
    Watches the cold store.
  runtime: python:3.11
  handler: store:watch
  eventTimeout: 1m30s
  readinessTimeoutSeconds: 20
  env:
  - {name: LIMIT, value: "-18"}
  - {name: PORT, value: 8080}
  - {name: DEBUG, value: true}
  - name: TOKEN
    valueFrom: {secretKeyRef: {name: tokens, key: cloud}}
  minReplicas: 1
  maxReplicas: 4
  resources:
    requests: {memory: 64M}
    limits: {cpu: 2, memory: 128Mi}
  loggerSinks:
  - {level: warn, sink: cloud}
  - {level: debug, sink: stdout}
  build:
    baseImage: python:3.11-slim
    commands: [pip install numpy]
  triggers:
    air:
      kind: mqtt
      url: 10.0.0.3:1883
      username: store
      numWorkers: 3
      explicitAckMode: enable
      batch: {mode: enable, batchSize: 5, timeout: 500ms}
      attributes:
        subscriptions:
        - {topic: store/+/air, qos: 0}
        - {topic: store/alarm, qos: 1}
    tick:
      kind: cron
      attributes:
        interval: 30s
        event: {body: go, headers: {shelf: 7, loud: true}}
    web:
      kind: http
      maxWorkers: 2
      workerAvailabilityTimeoutMilliseconds: 2500
      attributes:
        port: 32001
        maxRequestBodySize: 1048576
        cors: {enabled: true, allowOrigins: [https://panel.example], preflightMaxAgeSeconds: 60}
        ingresses: {http: {paths: [/store]}}
"""

CLUSTER = "not used: it is for Kubernetes or Docker, and edgehost runs functions as processes of this machine"
IMAGE = "not used: edgehost builds no image; put packages into the bundle's deps folder"
SCALE = "not used: edgehost runs one instance of a function; numWorkers says how many workers it has"
INGRESS = "not used: there is no ingress here; the function answers at /<name>, or at its routes in a function.toml"
LOGIN = "not used: write the broker, with username and password_file, as [brokers.NAME] into edgehost.toml"
FULL_WARNINGS = [
    f"metadata.namespace: {CLUSTER}",
    f"metadata.labels: {CLUSTER}",
    "spec.env[3].valueFrom: not used: there are no Kubernetes secrets here; TOKEN stays unset",
    f"spec.resources.requests: {CLUSTER}",
    "spec.triggers.air.attributes.subscriptions[1].qos: used for all topics of this trigger: it has one qos, the highest, 1",
    f"spec.triggers.air.username: {LOGIN}",
    "spec.triggers.web.attributes.port: not used: the agent has one HTTP listener, [http].listen in edgehost.toml",
    f"spec.triggers.web.attributes.ingresses: {INGRESS}",
    f"spec.build.baseImage: {IMAGE}",
    f"spec.build.commands: {IMAGE}",
    f"spec.minReplicas: {SCALE}",
    f"spec.maxReplicas: {SCALE}",
]


def test_everything_edgehost_has_is_read(read_yaml: Read) -> None:
    manifest = read_yaml(FULL)
    assert (manifest.name, manifest.description) == ("cold-store", "Watches the cold store.")
    assert (manifest.runtime, manifest.handler) == ("python", "store:watch")
    assert (manifest.timeout_s, manifest.start_timeout_s, manifest.log_level) == (90, 20, "debug")
    assert (manifest.workers, manifest.concurrency) == (3, 1)
    assert manifest.env == {"LIMIT": "-18", "PORT": "8080", "DEBUG": "true"}
    assert (manifest.limits.memory_bytes, manifest.limits.cpu) == (128 * 1024 * 1024, 2.0)
    air, tick, web = (trigger.settings for trigger in manifest.triggers)
    assert [(trigger.name, trigger.kind) for trigger in manifest.triggers] == [("air", "mqtt"), ("tick", "cron"), ("web", "http")]
    assert manifest.triggers[0].batch == Batch(5, 0.5)
    assert (air.broker, air.topics, air.qos) == ("mqtt://10.0.0.3:1883", ("store/+/air", "store/alarm"), 1)  # type: ignore[attr-defined]
    assert (tick.every_s, tick.body, tick.headers) == (30, "go", {"shelf": "7", "loud": "true"})  # type: ignore[attr-defined]
    assert (web.wait_s, web.body_limit_bytes) == (2.5, 1048576)  # type: ignore[attr-defined]
    assert (web.cors.allow_origins, web.cors.max_age_s) == (("https://panel.example",), 60)  # type: ignore[attr-defined]


def test_everything_else_is_warned_about_by_name(read_yaml: Read) -> None:
    assert list(read_yaml(FULL).warnings) == [f"thermostat/function.yaml {line}" for line in FULL_WARNINGS]


@pytest.mark.parametrize(
    "spec", ["", "triggers: {}", "triggers: {t: {kind: cron, attributes: {interval: 1s}}}", "disableDefaultHTTPTrigger: false"]
)
def test_a_function_without_an_http_trigger_gets_one(read_yaml: Read, spec: str) -> None:
    manifest = read_yaml(f"spec:\n  handler: a:b\n  {spec}")
    assert [trigger.name for trigger in manifest.triggers if trigger.kind == "http"] == ["default-http"]


@pytest.mark.parametrize("key", ["disableDefaultHTTPTrigger", "disableDefaultHttpTrigger"])
def test_a_function_that_disables_the_http_trigger_gets_none(read_yaml: Read, key: str) -> None:
    assert read_yaml(f"spec:\n  handler: a:b\n  {key}: true").triggers == ()


def test_a_disabled_trigger_is_left_out(read_yaml: Read) -> None:
    manifest = read_yaml("spec:\n  handler: a:b\n  triggers: {orders: {kind: kafka-cluster, disabled: true}}")
    assert [trigger.name for trigger in manifest.triggers] == ["default-http"]
    assert manifest.warnings == ("thermostat/function.yaml spec.triggers.orders: left out, for it says disabled: true",)


@pytest.mark.parametrize("runtime", ["python", "python:3.6", "python:3.12"])
def test_every_python_is_the_python_here(read_yaml: Read, runtime: str) -> None:
    assert read_yaml(f"spec: {{handler: a:b, runtime: '{runtime}'}}").runtime == "python"


def test_keys_are_found_whatever_their_case(read_yaml: Read) -> None:
    manifest = read_yaml("spec:\n  Handler: a:b\n  EVENTTIMEOUT: 5s\n  loggersinks: [{level: error}]")
    assert (manifest.handler, manifest.timeout_s, manifest.log_level) == ("a:b", 5, "error")


def test_async_mode_is_concurrency(read_yaml: Read) -> None:
    text = "spec:\n  handler: a:b\n  triggers: {{web: {{kind: http, mode: async{}}}}}"
    assert read_yaml(text.format("")).concurrency == 1000
    assert read_yaml(text.format(", async: {maxConnectionsNumber: 20}")).concurrency == 20


@pytest.mark.parametrize(
    ("attributes", "schedule", "every_s"),
    [
        ("schedule: '*/5 * * * *'", "*/5 * * * *", None),
        ("schedule: '0 */5 * * * *'", "*/5 * * * *", None),
        ("schedule: '* 0 7 ? * 1-5'", "0 7 * * 1-5", None),
        ("schedule: '@hourly'", "@hourly", None),
        ("schedule: '@every 1h30m'", "", 5400),
        ("interval: 250ms", "", 0.25),
        ("{interval: 1m, schedule: '0 7 * * *'}", "", 60),
    ],
)
def test_times_of_a_cron_trigger(read_yaml: Read, attributes: str, schedule: str, every_s: float | None) -> None:
    attributes = attributes if attributes.startswith("{") else f"{{{attributes}}}"
    manifest = read_yaml(f"spec:\n  handler: a:b\n  triggers: {{t: {{kind: cron, attributes: {attributes}}}}}")
    settings = manifest.triggers[0].settings
    assert (settings.schedule, settings.every_s) == (schedule, every_s)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("10.0.0.3:1883", "mqtt://10.0.0.3:1883"),
        ("broker", "mqtt://broker"),
        ("tcp://broker:1883", "mqtt://broker:1883"),
        ("ssl://broker:8883", "mqtts://broker:8883"),
        ("mqtts://broker", "mqtts://broker"),
    ],
)
def test_broker_urls_become_ours(read_yaml: Read, url: str, broker: str) -> None:
    text = "spec:\n  handler: a:b\n  triggers: {{m: {{kind: mqtt, url: '{}', attributes: {{subscriptions: [{{topic: a}}]}}}}}}"
    settings = read_yaml(text.format(url)).triggers[0].settings
    assert (settings.broker, settings.qos) == (broker, 0)  # type: ignore[attr-defined]


SPEC = "spec:\n  handler: a:b\n"
DURATION = 'use a number of seconds, or text such as "500ms", "30s" or "1h30m"'
HAS = "is not a trigger here; edgehost reads cron, http or mqtt from a Nuclio manifest. Remove this one"
MISTAKES = [
    ("[]", ": an empty list is not allowed; use a mapping with metadata and spec"),
    ("", ": nothing is not allowed; use a mapping with metadata and spec"),
    ("spec: 3", " spec: 3 is not allowed; use a mapping"),
    ("spec: {}", ' spec.handler: missing; the runtime python needs one, as in "main:handler" (module:function)'),
    ("spec: {handler: main}", ' spec.handler: "main" has no colon; write module:function'),
    (
        "metadata: {name: My Function}\n" + SPEC,
        ' metadata.name: "My Function" is not allowed; use 1 to 63 of a-z, 0-9, - and _, with a letter or digit first and last',
    ),
    (SPEC + "  runtime: golang", ' spec.runtime: "golang" is not a runtime here; edgehost has onnx or python'),
    (
        SPEC + "  eventTimeout: soon",
        f' spec.eventTimeout: "soon" is not allowed; {DURATION}',
    ),
    (
        SPEC + "  resources: {limits: {memory: 12Q}}",
        ' spec.resources.limits.memory: "12Q" is not allowed; use a number of bytes, or text such as "128MiB" or "4 MB"',
    ),
    (
        SPEC + "  loggerSinks: [{level: loud}]",
        ' spec.loggerSinks[0].level: "loud" is not allowed; use debug, info, warn, warning or error',
    ),
    (SPEC + "  env: {A: 1}", " spec.env: a table is not allowed; use a list"),
    (SPEC + "  env: [A]", ' spec.env[0]: "A" is not allowed; use a mapping with name and value'),
    (SPEC + "  env: [{name: A, value: [1]}]", " spec.env[0]: a list is not allowed; use text"),
    (SPEC + "  triggers: [http]", " spec.triggers: a list is not allowed; use a mapping"),
    (SPEC + "  triggers: {web: http}", ' spec.triggers.web: "http" is not allowed; use a mapping'),
    (
        SPEC + "  triggers: {orders: {kind: kafka-cluster}}",
        f' spec.triggers.orders.kind: "kafka-cluster" {HAS}',
    ),
    (
        SPEC + "  triggers: {orders: {}}",
        f" spec.triggers.orders.kind: nothing {HAS}",
    ),
    (
        SPEC + "  triggers: {w: {kind: http, numWorkers: 0}}",
        " spec.triggers.w.numWorkers: 0 is not allowed; use an integer from 1 up",
    ),
    (
        SPEC + "  triggers: {w: {kind: http, numWorkers: 999}}",
        " spec.triggers.w.numWorkers: 999 is not allowed; use an integer from 1 to 256",
    ),
    (SPEC + "  triggers: {w: {kind: http, mode: fast}}", ' spec.triggers.w.mode: "fast" is not allowed; use sync or async'),
    (
        SPEC + "  triggers: {w: {kind: http, batch: {mode: on}}}",
        " spec.triggers.w.batch.mode: true is not allowed; use enable or disable",
    ),
    (
        SPEC + "  triggers: {w: {kind: http, batch: {mode: enable, batchSize: 0}}}",
        " spec.triggers.w.batch.batchSize: 0 is not allowed; use an integer from 1 up",
    ),
    (
        SPEC + "  triggers: {m: {kind: mqtt, url: h, attributes: {subscriptions: [{topic: a, qos: 3}]}}}",
        " spec.triggers.m.attributes.subscriptions[0].qos: 3 is not allowed; use an integer from 0 to 2",
    ),
    (
        SPEC + "  triggers: {m: {kind: mqtt, url: h, attributes: {subscriptions: [{topic: 7}]}}}",
        ' spec.triggers.m.attributes.subscriptions[0].topic: 7 is not allowed; use text, in quotes: "7"',
    ),
    (SPEC + "  triggers: {m: {kind: mqtt, url: h}}", " spec.triggers.m.topics: missing; write a list of text, with at least one"),
    (
        SPEC + "  triggers: {t: {kind: cron}}",
        ' spec.triggers.t.attributes: says no time; write interval, as in "30s", or schedule, as in "*/5 * * * *"',
    ),
    (
        SPEC + "  triggers: {t: {kind: cron, attributes: {schedule: '*/3 * * * * *'}}}",
        ' spec.triggers.t.attributes.schedule: "*/3 * * * * *" counts seconds, and a schedule here counts minutes; use interval',
    ),
    (
        SPEC + "  triggers: {t: {kind: cron, attributes: {interval: often}}}",
        f' spec.triggers.t.attributes.interval: "often" is not allowed; {DURATION}',
    ),
    ("spec:\n  handler: a:b\n  handler: c:d", " line 3, column 3: handler is written twice; keep one"),
    ("spec:\n  triggers:\n    t: {kind: cron}\n    t: {kind: http}", " line 4, column 5: t is written twice; keep one"),
    ("spec: [", " line 1, column 8: not YAML: expected the node content, but found '<stream end>'"),
    (
        "spec: !!python/object:os.system {}",
        " line 1, column 7: not YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object:os.system'",
    ),
    ("a: &a\n  b: *a", ": is nested too deeply, or holds itself"),
]


@pytest.mark.parametrize(("text", "line"), MISTAKES)
def test_a_mistake_names_the_users_own_key(read_yaml: Read, text: str, line: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read_yaml(text)
    assert str(caught.value) == f"thermostat/function.yaml{line}"


def test_one_file_names_the_handler(read_yaml: Read, folder: Path) -> None:
    (folder / "store.py").write_text("")
    assert read_yaml("metadata: {name: x}").handler == "store:handler"


def test_without_pyyaml_the_extra_is_named(read_yaml: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ManifestError) as caught:
        read_yaml(SPEC)
    assert str(caught.value) == (
        "thermostat/function.yaml: reading YAML needs PyYAML; pip install 'edgehost[nuclio]', or write a function.toml"
    )


@pytest.mark.parametrize("marker", ["# @nuclio.configure", "#@nuclio.configure", "#      @nuclio.configure "])
@pytest.mark.parametrize("indent", ["   ", " "])
def test_inline_block(plugins: None, folder: Path, marker: str, indent: str) -> None:
    block = ["", "function.yaml:", "  metadata:", "    name: inline", "  spec:", "    eventTimeout: 5s", ""]
    code = ["#!/usr/bin/env python3", '"""A function."""', marker, *(f"#{indent}{line}".rstrip() for line in block), "import os"]
    (folder / "probe.py").write_text("\n".join(code))
    manifest = read_manifest(folder)
    assert (manifest.name, manifest.handler, manifest.timeout_s) == ("inline", "probe:handler", 5)
    assert manifest.source == folder / "probe.py"


def test_a_mistake_in_an_inline_block_names_the_python_file(plugins: None, folder: Path) -> None:
    (folder / "probe.py").write_text("import os\n\n# @nuclio.configure\n# function.yaml:\n#   spec: {eventTimeout: x}\n")
    with pytest.raises(ManifestError, match=r'^thermostat/probe.py spec.eventTimeout: "x" is not allowed'):
        read_manifest(folder)
    (folder / "probe.py").write_text("import os\n\n# @nuclio.configure\n# function.yaml:\n#   spec: {\n")
    with pytest.raises(ManifestError, match=r"^thermostat/probe.py line 6, column 1: not YAML"):
        read_manifest(folder)
    (folder / "probe.py").write_text("# @nuclio.configure\n# build.yaml: {}\n")
    with pytest.raises(ManifestError, match=r"^thermostat/probe.py: the # @nuclio.configure block holds no function.yaml: key$"):
        read_manifest(folder)


def test_a_block_ends_where_the_comment_does() -> None:
    source = "# @nuclio.configure\n# a: 1\n\n# b: 2\n"
    assert block_text(source) == "\na: 1\n"
    assert has_block(source)
    assert not has_block("x = '# @nuclio.configure'\n# @nuclio.other\n")
    assert block_text("x = 1\n") == ""
