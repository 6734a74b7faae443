"""A deployment brings one function up, keeps it up through bad versions and bad plugins, and ends it without losing an event."""

from __future__ import annotations

import asyncio
import gc
import os
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from msgspec import Struct

from edgehost import plugin
from edgehost.config import Config
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.journal import Journal
from edgehost.delivery.outbox import Outbox
from edgehost.deployment import Deployment
from edgehost.engine.nursery import Nursery
from edgehost.errors import StartError, TriggerError
from edgehost.event import Event, Origin, Response, failure
from edgehost.manifest.model import Batch, Manifest, OutputSpec, Retry, TriggerSpec
from edgehost.profile import Profile

PATIENCE_S = float(os.environ.get("EDGEHOST_TEST_PATIENCE_S", "30"))
ECHO = "def handler(context, event):\n    return context.function_version + ' ' + event.body.decode()"


class Settings(Struct, frozen=True):
    """What goes wrong, if anything: `start`, `stop`, `send` or `make`; `error` names the exception."""

    wrong: str = ""
    error: str = "TriggerError"
    n: int = 0


def go_wrong(settings: Settings, where: str) -> None:
    if settings.wrong == where:
        raise {"TriggerError": TriggerError, "OSError": OSError, "ValueError": ValueError}[settings.error](f"{where} went wrong")


class Source:
    """A trigger the test feeds with `fire`."""

    Settings: ClassVar[type[Struct]] = Settings
    replies: ClassVar[bool] = False
    made: ClassVar[list[Any]] = []

    def __init__(self, settings: Settings, host: Any) -> None:
        go_wrong(settings, "make")
        self.settings = settings
        self.host = host
        self.running = False
        self.pending: set[asyncio.Future[Response]] = set()
        self.made.append(self)

    async def start(self) -> None:
        go_wrong(self.settings, "start")
        self.running = True

    def fire(self, body: bytes, event_id: str = "e") -> asyncio.Future[Response]:
        future: asyncio.Future[Response] = self.host.submit(Event(body, id=event_id, trigger=self.host.origin))
        self.pending.add(future)
        future.add_done_callback(self.pending.discard)
        return future

    async def stop(self) -> None:
        self.running = False
        go_wrong(self.settings, "stop")
        if self.pending:
            await asyncio.wait(self.pending)


class Asking(Source):
    """A trigger whose callers wait for the answer."""

    replies: ClassVar[bool] = True


class Sink:
    """An output that keeps what it gets."""

    Settings: ClassVar[type[Struct]] = Settings
    made: ClassVar[list[Any]] = []

    def __init__(self, settings: Settings, host: Any) -> None:
        go_wrong(settings, "make")
        self.settings = settings
        self.state = "made"
        self.got: list[bytes] = []
        self.made.append(self)

    async def start(self) -> None:
        go_wrong(self.settings, "start")
        self.state = "started"

    def send(self, event: Event, response: Response) -> Awaitable[None] | None:
        assert self.state == "started"
        go_wrong(self.settings, "send")
        self.got.append(response.body)
        return None

    async def stop(self) -> None:
        self.state = "stopped"
        go_wrong(self.settings, "stop")


KINDS: dict[tuple[str, str], Any] = {("trigger", "source"): Source, ("trigger", "asking"): Asking, ("output", "sink"): Sink}


class Around:
    """What a deployment needs of its agent."""

    standalone = False

    def __init__(self) -> None:
        self.config = Config()
        self.board = Profile("bench", "Test bench")
        self.nursery = Nursery(asyncio.get_running_loop())
        self.journal = Journal(Path(os.environ["STATE_DIRECTORY"]) / "journal.db")
        self.outbox = Outbox(self.journal, 1 << 20, 1000.0)
        self.allowance = Allowance(1 << 20)

    def broker(self, name: str) -> Any:
        raise NotImplementedError

    def shared(self, key: str, make: Callable[[], Any]) -> Any:
        raise NotImplementedError

    def call(self, name: str, event: Event) -> asyncio.Future[Response]:
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        future.set_result(failure("not_ready", "nobody"))
        return future

    deliver = call


class Site:
    """One deployment of the function `f`, and its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.around = Around()
        self.deployment = Deployment("f", folder, self.around)

    def manifest(self, code: str = ECHO, **told: Any) -> Manifest:
        (self.folder / "main.py").write_text(textwrap.dedent(code))
        values = {"name": "f", "folder": self.folder, "source": self.folder / "function.toml", "handler": "main:handler", **told}
        return Manifest(**values)

    async def until(self, condition: Callable[[], Any], what: str = "the condition") -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"waited {PATIENCE_S:g} s for {what}")
            await asyncio.sleep(0.005)
        return value


@pytest.fixture
async def site(whole_again: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    caught: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: caught.append(context))
    real = plugin.load
    monkeypatch.setattr(plugin, "load", lambda kind, name: KINDS.get((kind, name)) or real(kind, name))
    monkeypatch.setattr(Source, "made", [])
    monkeypatch.setattr(Sink, "made", [])
    site = Site(tmp_path)
    try:
        yield site
    finally:
        await asyncio.wait_for(site.deployment.stop(), PATIENCE_S)
        await site.around.journal.close()
        site.around.nursery.close()
    gc.collect()
    await asyncio.sleep(0)
    assert not caught, [(each["message"], each.get("exception")) for each in caught]


def source(name: str = "in", kind: str = "source", batch: Batch | None = None, **settings: Any) -> TriggerSpec:
    return TriggerSpec(name, kind, Settings(**settings), batch)


def sink(name: str = "out", on: Any = "success", **settings: Any) -> OutputSpec:
    return OutputSpec(name, "sink", Settings(**settings), on)


async def answer(future: asyncio.Future[Response]) -> Response:
    return await asyncio.wait_for(asyncio.shield(future), PATIENCE_S)


async def test_an_event_goes_from_trigger_to_output(site: Site) -> None:
    await site.deployment.start(site.manifest(triggers=(source(),), outputs=(sink(),)))
    assert (await answer(Source.made[0].fire(b"hi"))).body == b"0.0.0 hi"
    assert Sink.made[0].got == [b"0.0.0 hi"]
    assert Source.made[0].host.origin == Origin("source", "in")
    status = site.deployment.status()
    assert (status.state, status.handled, status.workers_ready) == ("ready", 1, 1)
    assert [(trigger.name, trigger.state) for trigger in status.triggers] == [("in", "running")]


async def test_answers_to_waiting_callers_go_to_no_output_and_are_not_tried_again(site: Site) -> None:
    code = "def handler(context, event):\n    raise ValueError('no')"
    told = {"triggers": (source(kind="asking"),), "outputs": (sink(on="always"),), "retry": Retry(5, 0.01)}
    await site.deployment.start(site.manifest(code, **told))
    assert (await answer(Source.made[0].fire(b""))).code == "raised"
    assert not Sink.made[0].got
    assert site.deployment.status().failed == 1


@pytest.mark.parametrize("error", ["TriggerError", "OSError", "ValueError"])
@pytest.mark.parametrize("where", ["make", "start"])
async def test_a_trigger_that_fails_is_a_state_and_the_others_run(site: Site, where: str, error: str) -> None:
    triggers = (source("bad", wrong=where, error=error), source("good"))
    await site.deployment.start(site.manifest(triggers=triggers))
    assert (await answer(Source.made[-1].fire(b"hi"))).body == b"0.0.0 hi"
    states = {trigger.name: (trigger.state, trigger.message) for trigger in site.deployment.status().triggers}
    assert states["good"][0] == "running"
    if where == "start":
        assert states["bad"][0] == "failed"
        assert "start went wrong" in states["bad"][1]


@pytest.mark.parametrize("error", ["TriggerError", "OSError", "ValueError"])
@pytest.mark.parametrize("where", ["make", "start"])
async def test_an_output_that_fails_is_a_state_and_a_direct_call_says_so_at_once(site: Site, where: str, error: str) -> None:
    await site.deployment.start(site.manifest(triggers=(source(),), outputs=(sink(wrong=where, error=error),)))
    status = site.deployment.status()
    assert status.state == "failed"
    assert f"{where} went wrong" in status.last_error
    assert not Source.made
    response = await asyncio.wait_for(site.deployment.submit(Event()), 5)
    assert (response.code, response.status) == ("not_ready", 503)
    await site.deployment.replace(site.manifest(triggers=(source(),), outputs=(sink(),)))
    assert (await answer(Source.made[0].fire(b"hi"))).body == b"0.0.0 hi"


@pytest.mark.parametrize("error", ["TriggerError", "OSError", "ValueError"])
async def test_plugins_that_cannot_be_stopped_keep_nothing_else_from_ending(site: Site, error: str) -> None:
    told = {
        "triggers": (source("bad", wrong="stop", error=error), source("good")),
        "outputs": (sink("bad", wrong="stop", error=error), sink("good")),
    }
    await site.deployment.start(site.manifest(**told))
    await site.deployment.stop()
    assert not any(trigger.running for trigger in Source.made)
    assert {output.state for output in Sink.made} == {"stopped"}


async def test_a_function_that_cannot_start_is_failed_and_comes_up_when_mended(site: Site) -> None:
    code = "import os\nif not os.path.exists('mended'):\n    raise ValueError('not yet')\n" + ECHO
    await site.deployment.start(site.manifest(code, triggers=(source(),)))
    status = site.deployment.status()
    assert status.state == "failed"
    assert "not yet" in status.last_error
    assert not Source.made
    assert (await answer(site.deployment.submit(Event()))).code == "not_ready"
    (site.folder / "mended").touch()
    await site.until(lambda: Source.made and Source.made[0].running)
    assert (await answer(Source.made[0].fire(b"hi"))).body == b"0.0.0 hi"


async def test_before_its_first_start_a_deployment_says_it_is_not_ready(site: Site) -> None:
    assert (await answer(site.deployment.submit(Event()))).code == "not_ready"


async def test_an_upgrade_loses_no_event_and_keeps_the_triggers(site: Site) -> None:
    await site.deployment.start(site.manifest(version="1", triggers=(source(),)))
    futures: list[asyncio.Future[Response]] = []

    async def feed() -> None:
        for n in range(400):
            futures.append(Source.made[0].fire(b"%d" % n))
            await asyncio.sleep(0.001)

    feeding = asyncio.create_task(feed())
    await asyncio.sleep(0.05)
    await site.deployment.replace(site.manifest(version="2", triggers=(source(),)))
    await feeding
    bodies = [(await answer(future)).body.decode().split() for future in futures]
    assert [number for _, number in bodies] == [str(n) for n in range(400)]
    versions = [version for version, _ in bodies]
    assert versions == sorted(versions)
    assert set(versions) == {"1", "2"}
    assert len(Source.made) == 1


@pytest.mark.parametrize("drain", ["finish", "inflight", "handover"])
async def test_what_waits_at_an_upgrade_goes_by_the_old_versions_policy(site: Site, drain: str) -> None:
    code = "import time\n" + ECHO.replace("return", "time.sleep(0.1 * (event.body != b'w'))\n    return")
    await site.deployment.start(site.manifest(code, version="1", drain=drain, triggers=(source(kind="asking"),)))
    for n in range(3):
        await answer(Source.made[0].fire(b"%d" % n))
    futures = [Source.made[0].fire(b"%d" % n) for n in range(6)]
    await site.deployment.replace(site.manifest(code, version="2", triggers=(source(kind="asking"),)))
    answers = [await answer(future) for future in futures]
    versions = [response.body.decode()[0] if not response.code else response.code for response in answers]
    if drain == "finish":
        assert set(versions) == {"1"}
    else:
        rest = "2" if drain == "handover" else "stopped"
        assert versions[0] in ("1", rest)
        assert versions[-1] == rest
        assert [response.code or response.body.decode()[2:] for response in answers] == [
            response.code or str(n) for n, response in enumerate(answers)
        ]


async def test_other_triggers_are_stopped_and_started_at_an_upgrade(site: Site) -> None:
    await site.deployment.start(site.manifest(triggers=(source(n=1),)))
    await site.deployment.replace(site.manifest(triggers=(source(n=2),)))
    old, new = Source.made
    assert (old.running, new.running) == (False, True)
    assert (await answer(new.fire(b"hi"))).body == b"0.0.0 hi"


async def test_a_version_that_cannot_start_changes_nothing(site: Site) -> None:
    await site.deployment.start(site.manifest(version="1", triggers=(source(),), outputs=(sink(),)))
    for broken, told in (("raise ValueError('broken')", {}), (ECHO, {"outputs": (sink(wrong="start"),)})):
        with pytest.raises((StartError, TriggerError)):
            await site.deployment.replace(site.manifest(broken, version="2", triggers=(source(),), **told))
        (site.folder / "main.py").write_text(ECHO)
        assert (await answer(Source.made[0].fire(b"hi"))).body == b"1 hi"
        assert site.deployment.status().version == "1"
    assert Sink.made[0].got == [b"1 hi"] * 2


async def test_a_version_that_never_came_up_is_replaced_at_once(site: Site) -> None:
    await site.deployment.start(site.manifest("raise ValueError('broken')", triggers=(source(),), drain_timeout_s=300))
    waiting = site.deployment._version.function.submit(Event(b"waits"))  # type: ignore[union-attr]
    await asyncio.wait_for(site.deployment.replace(site.manifest(version="2", triggers=(source(),))), PATIENCE_S)
    assert site.deployment.status().state == "ready"
    assert (await answer(waiting)).code in ("", "stopped")
    assert (await answer(Source.made[0].fire(b"hi"))).body == b"2 hi"


async def test_an_event_between_two_tries_is_not_lost_at_an_upgrade(site: Site) -> None:
    told = {"triggers": (source(),), "retry": Retry(3, 0.3, 0.3)}
    await site.deployment.start(site.manifest("def handler(context, event):\n    raise ValueError('no')", **told))
    future = Source.made[0].fire(b"hi")
    await site.until(lambda: site.deployment.status().failed == 1)
    await site.deployment.replace(site.manifest(version="2", **told))
    assert (await answer(future)).body == b"2 hi"


async def test_a_batch_being_collected_is_not_lost_at_an_upgrade(site: Site) -> None:
    code = "def handler(context, events):\n    return [context.Response(body=b'ok', event_id=e.id) for e in events]"
    told = {"triggers": (source(batch=Batch(2, 1000)),)}
    await site.deployment.start(site.manifest(code, version="1", **told))
    first = Source.made[0].fire(b"", "a")
    await site.deployment.replace(site.manifest(code, version="2", **told))
    second = Source.made[0].fire(b"", "b")
    assert [(await answer(future)).code for future in (first, second)] == ["", ""]


async def test_a_stop_waits_for_no_batch_to_fill(site: Site) -> None:
    code = "def handler(context, events):\n    return []"
    await site.deployment.start(site.manifest(code, triggers=(source(batch=Batch(10, 1000)),)))
    future = Source.made[0].fire(b"", "a")
    await asyncio.wait_for(site.deployment.stop(), PATIENCE_S)
    assert (await answer(future)).code == ""


async def test_a_stop_waits_for_no_long_delay_between_tries(site: Site) -> None:
    told = {"triggers": (source(),), "retry": Retry(9, 1000.0, 1000.0)}
    await site.deployment.start(site.manifest("def handler(context, event):\n    raise ValueError('no')", **told))
    future = Source.made[0].fire(b"hi")
    await site.until(lambda: site.deployment.status().failed == 1)
    await asyncio.wait_for(site.deployment.stop(), PATIENCE_S)
    assert (await answer(future)).failed


async def test_a_stop_in_the_middle_of_a_start_ends_it(site: Site) -> None:
    starting = asyncio.create_task(site.deployment.start(site.manifest("import time\ntime.sleep(1000)\n" + ECHO)))
    await site.until(lambda: site.deployment._version is not None and site.deployment._version.function.pool.workers)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)


async def test_a_stop_in_the_middle_of_an_upgrade_ends_both_versions(site: Site) -> None:
    await site.deployment.start(site.manifest(version="1", triggers=(source(),)))
    slow = site.manifest("import time\ntime.sleep(1000)\n" + ECHO, version="2", triggers=(source(),))
    upgrading = asyncio.create_task(site.deployment.replace(slow))
    await asyncio.sleep(0.3)
    upgrading.cancel()
    await asyncio.gather(upgrading, return_exceptions=True)
    assert (await answer(Source.made[0].fire(b"hi"))).body == b"1 hi"


async def test_a_trigger_whose_events_the_disk_refuses_is_degraded_whatever_it_tells_of_itself(site: Site) -> None:
    allowance = site.around.allowance
    durable = TriggerSpec("in", "source", Settings(), durable=True)
    allowance.refuse("disk", "no room")
    await site.deployment.start(site.manifest(triggers=(durable, source("other"))))

    def shown() -> dict[str, tuple[str, str]]:
        return {trigger.name: (trigger.state, trigger.message) for trigger in site.deployment.status().triggers}

    assert shown() == {"in": ("degraded", "no room"), "other": ("running", "")}
    assert site.deployment.health().reason == "in degraded: no room"
    Source.made[0].host.report("running", "connected again")
    assert shown()["in"] == ("degraded", "no room")
    Source.made[0].host.report("failed", "the broker refused us")
    assert shown()["in"] == ("failed", "the broker refused us"), "what is worse is told"
    Source.made[0].host.report("running", "connected")
    waits = Source.made[0].fire(b"hi")
    allowance.refuse("disk", "")
    assert (await answer(waits)).status == 202
    assert shown()["in"] == ("running", "connected")
    allowance.refuse("journal", "stuck")
    assert shown()["in"] == ("degraded", "stuck")
    allowance.refuse("journal", "")
    assert shown()["in"] == ("running", "connected")
