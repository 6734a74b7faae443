"""What a manifest's single values cannot tell: rules between them, and the forms of names. Pure; raises Mistake."""

from __future__ import annotations

import re

from edgehost.manifest.model import Manifest, OutputSpec, Retry, TriggerSpec
from edgehost.manifest.problem import Mistake, did_you_mean, not_allowed, show

_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9_]{0,61}[a-z0-9])?", re.ASCII)
_PART_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_MOST_AT_ONCE = 10_000


def check(manifest: Manifest, needs_handler: bool) -> None:
    """Raise the first Mistake between the manifest's values."""
    _check_name(manifest.name)
    if needs_handler and not manifest.handler:
        raise Mistake(("handler",), f'missing; the runtime {manifest.runtime} needs one, as in "main:handler" (module:function)')
    _check_load(manifest)
    _check_retry(manifest.retry)
    _check_env(manifest.env)
    for trigger in manifest.triggers:
        _check_trigger(trigger, manifest)
    for output in manifest.outputs:
        _check_output(output, manifest)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Mistake(
            ("name",), f"{show(name)} is not allowed; use 1 to 63 of a-z, 0-9, - and _, with a letter or digit first and last"
        )


def _check_load(manifest: Manifest) -> None:
    at_once = manifest.workers * manifest.concurrency
    if at_once > _MOST_AT_ONCE:
        each = f"{manifest.workers} workers of {manifest.concurrency}"
        raise Mistake(("concurrency",), f"{each} are {at_once} events at once; use {_MOST_AT_ONCE} at most")


def _check_retry(retry: Retry) -> None:
    if retry.delay_s > retry.max_delay_s:
        raise Mistake(
            ("retry", "delay_s"), f"{retry.delay_s:g} is more than max_delay_s, {retry.max_delay_s:g}; raise that, or lower this"
        )
    for index, name in enumerate(retry.permanent):
        if not all(part.isidentifier() for part in name.split(".")):
            form = 'the name of an exception, such as "ValueError", or with its module, such as "app.BadReading"'
            raise not_allowed(("retry", "permanent", index), name, form)


def _check_env(env: dict[str, str]) -> None:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            raise Mistake(("env", name), "cannot name an environment variable; use letters, digits and _")
        if "\0" in value:
            raise Mistake(("env", name), "holds a NUL character, which an environment variable cannot")


def _check_trigger(trigger: TriggerSpec, manifest: Manifest) -> None:
    _check_part_name("triggers", trigger.name)
    if trigger.batch and trigger.batch.size > manifest.queue.size:
        raise Mistake(
            ("triggers", trigger.name, "batch", "size"),
            f"{trigger.batch.size} is more than the queue holds, {manifest.queue.size}; lower it, or raise [queue].size",
        )


def _check_output(output: OutputSpec, manifest: Manifest) -> None:
    _check_part_name("outputs", output.name)
    names = [trigger.name for trigger in manifest.triggers]
    for index, name in enumerate(output.triggers):
        if name not in names:
            text = f"{show(name)} is not a trigger of this function; {did_you_mean(name, names)}"
            raise Mistake(("outputs", output.name, "triggers", index), text)


def _check_part_name(what: str, name: str) -> None:
    if not _PART_NAME.fullmatch(name):
        raise Mistake((what, name, ""), "cannot be a name; use up to 63 letters, digits, -, _ and ., no sign first or last")
