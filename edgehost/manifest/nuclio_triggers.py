"""The triggers of a Nuclio manifest: `spec.triggers` to function.toml's `[triggers.*]`, kind by kind.

The keys are those of Nuclio's trigger references (http, mqtt, cron) and of its Trigger struct (pkg/functionconfig/types.go).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgehost import plugin
from edgehost.manifest.nuclio_cron import cron_settings
from edgehost.manifest.nuclio_section import Reading, Section
from edgehost.manifest.problem import KeyPath, Mistake, choice, not_allowed, show

DEFAULT_HTTP = "default-http"
_ASYNC_CONNECTIONS = 1000  # Nuclio's default for async.maxConnectionsNumber

_CLUSTER = "not used: it is for Kubernetes or Docker"
_LISTENER = "not used: the agent has one HTTP listener, [http].listen in edgehost.toml"
_ROUTES = "not used: there is no ingress here; the function answers at /<name>, or at its routes in a function.toml"
_FASTHTTP = "not used: it tunes Nuclio's own HTTP server"
_LOGIN = "not used: write the broker, with username and password_file, as [brokers.NAME] into edgehost.toml"
_SESSION = "not used: write the broker, with client_id and version, as [brokers.NAME] into edgehost.toml"
_UNKNOWN = "not used: edgehost does not know this key"
_NOT_USED = {
    "annotations": _CLUSTER,
    "username": _LOGIN,
    "password": _LOGIN,
    "secret": _LOGIN,
    "workerAllocatorName": "not used: all triggers of a function share its workers",
    "workerTerminationTimeout": "not used: drain_timeout_s of a function.toml bounds the end of a worker",
}
_HTTP_NOT_USED = {
    "port": _LISTENER,
    "serviceType": _CLUSTER,
    "ingresses": _ROUTES,
    "readBufferSize": _FASTHTTP,
    "reduceMemoryUsage": _FASTHTTP,
    "disablePortPublishing": _LISTENER,
}


def read_triggers(spec: Section) -> None:
    """Fill `[triggers.*]`, `workers` and `concurrency` from `spec.triggers`; add the HTTP trigger every Nuclio function has."""
    reading = spec.reading
    triggers = spec.section("triggers").sections()
    kinds = [_read_trigger(name, trigger, reading) for name, trigger in triggers.items()]
    disabled, _ = spec.take("disableDefaultHTTPTrigger")
    if "http" not in kinds and disabled is not True:
        reading.put(("triggers", DEFAULT_HTTP), {"kind": "http"}, ("spec", "triggers"))


def _read_trigger(name: str, trigger: Section, reading: Reading) -> str:
    """Fill one trigger's table and give its kind, empty if it is disabled."""
    kind, origin = trigger.take("kind")
    disabled, _ = trigger.take("disabled")
    if disabled is True:
        reading.warn(trigger.path, "left out, for it says disabled: true")
        return ""
    if kind not in _READERS:
        has = choice(sorted(set(plugin.kinds("trigger")) & set(_READERS)))
        raise Mistake(origin, f"{show(kind)} is not a trigger here; edgehost reads {has} from a Nuclio manifest. Remove this one")
    to: KeyPath = ("triggers", name)
    reading.know(to, trigger.path)
    reading.put((*to, "kind"), kind, origin)
    _read_workers(trigger, reading)
    _read_batch(trigger.section("batch"), to)
    _read_ack_mode(trigger, reading)
    _READERS[kind](trigger, to)
    trigger.ignore("class", "name")
    trigger.leave(_NOT_USED, _UNKNOWN)
    return str(kind)


def _read_workers(trigger: Section, reading: Reading) -> None:
    """Nuclio has workers for every trigger, edgehost for the function: it gets as many as the trigger with the most."""
    for key in ("numWorkers", "maxWorkers"):
        count, origin = trigger.take(key)
        if count is not None:
            _raise_to(reading, "workers", count, origin)
    mode, origin = trigger.take("mode")
    connections = trigger.section("async")
    if mode == "async":
        count, given = connections.take("maxConnectionsNumber")
        _raise_to(reading, "concurrency", _ASYNC_CONNECTIONS if count is None else count, origin if count is None else given)
    elif mode not in (None, "sync"):
        raise not_allowed(origin, mode, "sync or async")
    connections.leave({}, "not used: edgehost's workers need no connections of their own")


def _raise_to(reading: Reading, key: str, count: Any, origin: KeyPath) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise not_allowed(origin, count, "an integer from 1 up")
    if count >= reading.table.get(key, 1):
        reading.put((key,), count, origin)


def _read_batch(batch: Section, to: KeyPath) -> None:
    mode, origin = batch.take("mode")
    if mode not in (None, "enable", "disable"):
        raise not_allowed(origin, mode, "enable or disable")
    if mode == "enable":
        batch.reading.put((*to, "batch"), {"size": 10}, origin)
        batch.move("batchSize", (*to, "batch", "size"))
        batch.move("timeout", (*to, "batch", "wait_s"))
    batch.ignore("batchSize", "timeout")
    batch.leave({}, _UNKNOWN)


def _read_ack_mode(trigger: Section, reading: Reading) -> None:
    """edgehost always heeds `ensure_no_ack`, which is Nuclio's `enable`; without its use that is `disable` too."""
    mode, origin = trigger.take("explicitAckMode")
    if mode == "explicitOnly":
        reading.warn(origin, "not used: an answer acknowledges its event; call ensure_no_ack() on it to hold that back")
    elif mode not in (None, "", "enable", "disable"):
        raise not_allowed(origin, mode, "enable, disable or explicitOnly")


def _http(trigger: Section, to: KeyPath) -> None:
    wait_ms, origin = trigger.take("workerAvailabilityTimeoutMilliseconds")
    if wait_ms is not None:
        if not isinstance(wait_ms, int) or isinstance(wait_ms, bool) or wait_ms < 0:
            raise not_allowed(origin, wait_ms, "a number of milliseconds")
        trigger.reading.put((*to, "wait_s"), max(wait_ms, 1) / 1000, origin)
    attributes = trigger.section("attributes")
    attributes.move("maxRequestBodySize", (*to, "body_limit_bytes"))
    cors = attributes.section("cors")
    enabled, origin = cors.take("enabled")
    if enabled is True:
        trigger.reading.put((*to, "cors"), {}, origin)
        for theirs, ours in _CORS.items():
            cors.move(theirs, (*to, "cors", ours))
    cors.ignore(*_CORS)
    cors.leave({}, _UNKNOWN)
    attributes.leave(_HTTP_NOT_USED, _UNKNOWN)
    trigger.leave({"url": _LISTENER, **_NOT_USED}, _UNKNOWN)


_CORS = {
    "allowOrigins": "allow_origins",
    "allowMethods": "allow_methods",
    "allowHeaders": "allow_headers",
    "exposeHeaders": "expose_headers",
    "allowCredentials": "allow_credentials",
    "preflightMaxAgeSeconds": "max_age_s",
}


def _mqtt(trigger: Section, to: KeyPath) -> None:
    trigger.move("url", (*to, "broker"), _broker_url)
    trigger.ignore("workerAvailabilityTimeoutMilliseconds")
    attributes = trigger.section("attributes")
    subscriptions = attributes.items("subscriptions")
    topics: list[Any] = []
    levels: dict[KeyPath, Any] = {}
    for item, origin in subscriptions:
        if not isinstance(item, Mapping) or "topic" not in item:
            raise not_allowed(origin, item, "a mapping with topic and qos")
        trigger.reading.know((*to, "topics", len(topics)), (*origin, "topic"))
        topics.append(item["topic"])
        place = (*origin, "qos")
        levels[place] = item.get("qos", 0)
    if topics:
        trigger.reading.put((*to, "topics"), topics, (*attributes.path, "subscriptions"))
        _put_qos(trigger, to, levels)
    attributes.leave({"clientID": _SESSION, "protocolVersion": _SESSION}, _UNKNOWN)


def _put_qos(trigger: Section, to: KeyPath, levels: dict[KeyPath, Any]) -> None:
    """One quality of service for all topics of a trigger: the highest asked for, so that nothing arrives less surely."""
    for origin, qos in levels.items():
        if not isinstance(qos, int) or isinstance(qos, bool) or not 0 <= qos <= 2:
            raise not_allowed(origin, qos, "an integer from 0 to 2")
    origin = max(levels, key=levels.__getitem__)
    trigger.reading.put((*to, "qos"), levels[origin], origin)
    if len(set(levels.values())) > 1:
        trigger.reading.warn(origin, f"used for all topics of this trigger: it has one qos, the highest, {levels[origin]}")


def _broker_url(url: Any) -> str:
    """Nuclio takes `host:1883`, and paho's schemes tcp and ssl; edgehost takes mqtt and mqtts."""
    if not isinstance(url, str):
        raise ValueError(f"{show(url)} is not allowed; use the URL of a broker, as in mqtt://host:1883")
    scheme, separator, rest = url.partition("://")
    if not separator:
        return f"mqtt://{url}"
    return {"tcp": "mqtt", "ssl": "mqtts", "tls": "mqtts"}.get(scheme, scheme) + separator + rest


def _cron(trigger: Section, to: KeyPath) -> None:
    trigger.ignore("workerAvailabilityTimeoutMilliseconds")
    cron_settings(trigger.section("attributes"), to)


_READERS: dict[Any, Callable[[Section, KeyPath], None]] = {"http": _http, "mqtt": _mqtt, "cron": _cron}
