"""Durable events through real workers: every one runs, whatever is upgraded, removed, refused or killed meanwhile."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgehost.backoff import Backoff
from edgehost.deployment import Deployment
from edgehost.errors import StartError
from edgehost.event import Event, Response
from edgehost.manifest.model import Batch, Dedupe, Queue, Retry, Sandbox, TriggerSpec
from tests.test_deployment import PATIENCE_S, Settings, Site, Source, answer, sink, site  # noqa: F401 - a fixture

NOTE = """
import os, time
def handler(context, event):
    with open('notes', 'a') as notes:
        notes.write(f'{context.function_version} {event.body.decode()}\\n')
    time.sleep(SLOW)
    return event.body
"""
OPEN = Sandbox(enabled=False)


def note(slow: float = 0.0) -> str:
    return NOTE.replace("SLOW", str(slow))


def durable(kind: str = "source", batch: Batch | None = None, dedupe: Dedupe | None = None, n: int = 0) -> TriggerSpec:
    return TriggerSpec("in", kind, Settings(n=n), batch, True, dedupe)


def noted(site: Site) -> list[str]:  # noqa: F811
    path = site.folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


def bodies(site: Site) -> list[str]:  # noqa: F811
    return [line.split()[1] for line in noted(site)]


async def accepted(source: Source, *numbers: int) -> None:
    responses = [await answer(source.fire(b"%d" % number, str(number))) for number in numbers]
    assert {response.status for response in responses} <= {202}, responses


async def on_disk(site: Site) -> dict[str, int]:  # noqa: F811
    def look(connection: Any) -> dict[str, int]:
        return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("events", "dead")}

    return await site.around.journal.ask(look)


async def settled(site: Site, dead: int = 0) -> None:  # noqa: F811
    for _ in range(int(PATIENCE_S * 100)):
        if (found := await on_disk(site)) == {"events": 0, "dead": dead}:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{found} are left; {bodies(site)} have run")


async def test_a_durable_event_is_accepted_at_once_and_runs(site: Site) -> None:  # noqa: F811
    await site.deployment.start(site.manifest(note(), triggers=(durable(),), outputs=(sink(),), sandbox=OPEN))
    await accepted(Source.made[0], *range(20))
    await settled(site)
    assert bodies(site) == [str(number) for number in range(20)]
    await site.until(lambda: site.around.allowance.events == 0, "the room to be given back, a turn after the disk has it")


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("drain", ["finish", "handover", "inflight"])
async def test_an_upgrade_with_a_backlog_runs_each_once(site: Site, changed: bool, drain: Any) -> None:  # noqa: F811
    told = {"sandbox": OPEN, "drain": drain}
    await site.deployment.start(site.manifest(note(0.02), version="1", triggers=(durable(),), **told))
    await accepted(Source.made[0], *range(60))
    await site.until(lambda: noted(site), "the first to run")
    await site.deployment.replace(site.manifest(note(), version="2", triggers=(durable(n=int(changed)),), **told))
    await accepted(Source.made[-1], *range(60, 70))
    await settled(site)
    assert Counter(bodies(site)) == Counter(str(number) for number in range(70))
    assert {line.split()[0] for line in noted(site)} == {"1", "2"}
    await site.until(lambda: site.around.allowance.events == 0, "the room to be given back, a turn after the disk has it")


async def test_a_function_that_is_removed_and_comes_back_finds_its_events(site: Site) -> None:  # noqa: F811
    told = {"triggers": (durable(),), "sandbox": OPEN, "drain": "inflight", "queue": Queue(1, "reject")}
    await site.deployment.start(site.manifest(note(0.05), **told))
    await accepted(Source.made[0], *range(30))
    await site.deployment.stop()
    left = (await on_disk(site))["events"]
    assert left == 30 - len(set(bodies(site))) > 0
    assert site.around.allowance.events == left
    site.deployment = Deployment("f", site.folder, site.around)
    await site.deployment.start(site.manifest(note(), **{**told, "triggers": ()}))
    await settled(site)
    assert Counter(bodies(site)) == Counter(str(number) for number in range(30)), "also if its trigger has gone meanwhile"


@pytest.mark.parametrize("then", [(), (TriggerSpec("in", "source", Settings()),), (TriggerSpec("in", "asking", Settings()),)])
async def test_events_of_a_trigger_that_is_gone_or_no_longer_durable_run(
    site: Site, then: tuple[TriggerSpec, ...]  # noqa: F811
) -> None:
    told: dict[str, Any] = {"sandbox": OPEN, "outputs": (sink(),)}
    await site.deployment.start(site.manifest(note(0.05), triggers=(durable(),), **told))
    await accepted(Source.made[0], *range(20))
    await site.deployment.replace(site.manifest(note(), triggers=then, version="2", **told))
    if then:
        assert (await answer(Source.made[-1].fire(b"direct"))).body == b"direct"
    await settled(site)
    assert Counter(bodies(site)) == Counter([*(str(number) for number in range(20)), *(["direct"] if then else [])])
    from tests.test_deployment import Sink

    expected = {b"%d" % number for number in range(20)}
    assert expected <= {body for one in Sink.made for body in one.got}, "what it said has gone to its outputs"


@pytest.mark.parametrize("policy", ["block", "reject", "drop_oldest", "drop_newest"])
async def test_durable_events_wait_on_disk_whatever_the_queues_policy(site: Site, policy: Any) -> None:  # noqa: F811
    told = {"triggers": (durable(),), "queue": Queue(2, policy), "sandbox": OPEN}
    await site.deployment.start(site.manifest(note(0.002), **told))
    await accepted(Source.made[0], *range(100))
    await settled(site)
    assert bodies(site) == [str(number) for number in range(100)], "each once, and in order"


async def test_durable_events_in_batches(site: Site) -> None:  # noqa: F811
    code = """
def handler(context, events):
    with open('notes', 'a') as notes:
        notes.writelines(f'1 {e.body.decode()}\\n' for e in events)
    return [context.Response(body=e.body, event_id=e.id) for e in events]
"""
    await site.deployment.start(site.manifest(code, triggers=(durable(batch=Batch(10, 0.05)),), sandbox=OPEN))
    await accepted(Source.made[0], *range(95))
    await settled(site)
    assert bodies(site) == [str(number) for number in range(95)]


async def test_durable_events_at_once(site: Site) -> None:  # noqa: F811
    code = """
import asyncio
async def handler(context, event):
    await asyncio.sleep(0.02)
    with open('notes', 'a') as notes:
        notes.write(f'1 {event.body.decode()}\\n')
"""
    await site.deployment.start(site.manifest(code, triggers=(durable(),), workers=2, concurrency=8, sandbox=OPEN))
    await accepted(Source.made[0], *range(100))
    await settled(site)
    assert Counter(bodies(site)) == Counter(str(number) for number in range(100))


async def test_workers_that_die_cost_attempts_and_no_event(site: Site) -> None:  # noqa: F811
    code = note() + """
inner = handler
def handler(context, event):
    inner(context, event)
    if int(event.body) % 5 == 0 and open('notes').read().split().count(event.body.decode()) < 2:
        os._exit(1)
"""
    told = {"triggers": (durable(),), "sandbox": OPEN, "retry": Retry(3, 0.01, 0.02)}
    await site.deployment.start(site.manifest(code, **told))
    await accepted(Source.made[0], *range(1, 11))
    await settled(site)
    counted = Counter(bodies(site))
    assert {name: counted[name] for name in ("5", "10")} == {"5": 2, "10": 2}
    assert sum(counted.values()) == 12


async def test_events_of_a_function_in_a_crash_loop_wait_and_are_no_dead_letters(site: Site) -> None:  # noqa: F811
    code = "import os\nif os.path.exists('broken'):\n    raise ValueError('broken')\n" + note().replace(
        "return", "if event.body == b'0': os._exit(1)\n    return"
    )
    told = {"triggers": (durable(),), "sandbox": OPEN, "retry": Retry(1), "timeout_s": 0.3}
    await site.deployment.start(site.manifest(code, **told))
    (site.folder / "broken").touch()
    await accepted(Source.made[0], 0, *range(1, 6))
    await site.until(lambda: site.deployment.state in ("failed", "crash_loop"), "the function to be down")
    await asyncio.sleep(1.0)
    assert await on_disk(site) == {"events": 5, "dead": 1}, "the one that killed its worker has failed, the others wait"
    (site.folder / "broken").unlink()
    await settled(site, dead=1)
    assert set(bodies(site)) == {str(number) for number in range(6)}


async def test_a_stop_waits_for_no_delay_and_the_event_stays_with_its_attempts(site: Site) -> None:  # noqa: F811
    told = {"triggers": (durable(),), "retry": Retry(9, 1000.0, 1000.0)}
    await site.deployment.start(site.manifest("def handler(context, event):\n    raise ValueError('no')", **told))
    await accepted(Source.made[0], 1)
    await site.until(lambda: site.deployment.status().failed == 1, "the first try")
    await asyncio.wait_for(site.deployment.stop(), PATIENCE_S)
    attempts = await site.around.journal.ask(lambda connection: connection.execute("SELECT attempts FROM events").fetchall())
    assert attempts == [(1,)]


async def test_who_asks_gets_the_functions_answer_of_a_durable_trigger_too(site: Site) -> None:  # noqa: F811
    for dedupe in (None, Dedupe("body")):
        await site.deployment.replace(site.manifest(note(), triggers=(durable(dedupe=dedupe),), sandbox=OPEN))
        host = Source.made[-1].host
        response: Response = await answer(host.ask(Event(b"hi", id="1", trigger=host.origin)))
        assert (response.status, response.body) == (200, b"hi")
        assert (await answer(host.submit(Event(b"other", id="2", trigger=host.origin)))).status == 202


async def test_a_caller_who_leaves_takes_no_durable_event_with_him(site: Site) -> None:  # noqa: F811
    await site.deployment.start(site.manifest(note(), triggers=(durable(kind="asking"),), sandbox=OPEN))
    Source.made[0].fire(b"1").cancel()
    await site.until(lambda: bodies(site) == ["1"], "it to run")
    await settled(site)


async def test_an_event_with_an_id_can_be_taken_back_while_it_waits_and_is_then_not_known(site: Site) -> None:  # noqa: F811
    trigger = TriggerSpec("in", "asking", Settings(), None, False, Dedupe("body"))
    await site.deployment.start(site.manifest(note(0.5), triggers=(trigger,), sandbox=OPEN, queue=Queue(10, "reject")))
    host = Source.made[0].host
    await answer(Source.made[0].fire(b"slow"))  # so that its worker is given one at a time
    begun, waiting, joined = (Source.made[0].fire(body) for body in (b"1", b"2", b"3"))
    also_joined = Source.made[0].fire(b"3")
    await site.until(lambda: site.deployment.status().queued == 2, "two to wait")
    assert not host.withdraw(begun)
    assert not host.withdraw(joined), "somebody else waits for it"
    assert host.withdraw(waiting)
    assert (await answer(waiting)).code == "no_worker"
    assert [(await answer(each)).body for each in (begun, joined, also_joined)] == [b"1", b"3", b"3"]
    assert (await answer(Source.made[0].fire(b"2"))).body == b"2"


async def test_a_trigger_that_cannot_start_does_not_double_what_it_left(site: Site) -> None:  # noqa: F811
    told: dict[str, Any] = {"sandbox": OPEN, "drain": "inflight"}
    await site.deployment.start(site.manifest(note(0.02), triggers=(durable(),), **told))
    await accepted(Source.made[0], *range(40))
    broken = TriggerSpec("in", "source", Settings(wrong="start"), None, True)
    await site.deployment.replace(site.manifest(note(0.005), triggers=(broken,), version="2", **told))
    for _ in range(3):
        await site.deployment.ingress.try_again()
    await settled(site)
    assert Counter(bodies(site)) == Counter(str(number) for number in range(40))


async def test_an_upgrade_that_fails_leaves_the_outputs_their_way_over_the_disk(
    site: Site, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    from edgehost.manifest.model import OutputSpec
    from tests import test_deployment
    from tests.delivery.test_ending import Out

    class Upward(Out):
        Settings = Settings

        def __init__(self, settings: Any, host: Any) -> None:
            super().__init__()
            self.reachable = True

        async def start(self) -> None: ...

        async def stop(self) -> None: ...

    monkeypatch.setitem(test_deployment.KINDS, ("output", "upward"), Upward)
    told: dict[str, Any] = {"triggers": (durable(),), "outputs": (OutputSpec("up", "upward", Settings()),), "sandbox": OPEN}
    await site.deployment.start(site.manifest(note(), **told))
    with pytest.raises(StartError):
        await site.deployment.replace(site.manifest("raise ValueError('broken')", version="2", **told))
    (site.folder / "main.py").write_text(note())
    lane = site.around.outbox.lanes["f", "up"]
    assert lane.send(Event(), Response(body=b"x")) is None, "it leaves by the version in place"


async def test_while_another_agent_has_the_journal_durable_triggers_wait_and_outputs_go_direct(
    site: Site, caplog: pytest.LogCaptureFixture  # noqa: F811
) -> None:
    path = Path(os.environ["STATE_DIRECTORY"]) / "journal.db"
    code = (
        "import sys; from pathlib import Path; from edgehost.delivery.recovery import open_journal\n"
        "c, _ = open_journal(Path(sys.argv[1]), False); print('open', flush=True); sys.stdin.read()"
    )
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(path), stdin=pipe, stdout=pipe)
    assert other.stdout is not None
    await other.stdout.readline()
    site.deployment.ingress._backoff = Backoff(0.05, 0.05)
    plain = TriggerSpec("plain", "source", Settings())
    await site.deployment.start(site.manifest(note(), triggers=(durable(), plain), outputs=(sink(),), sandbox=OPEN))
    states = {trigger.name: trigger for trigger in site.deployment.status().triggers}
    assert states["in"].state == "failed"
    assert "is in use by another agent" in states["in"].message
    assert (await answer(Source.made[0].fire(b"direct"))).body == b"direct"
    await other.communicate(b"")
    await site.until(lambda: {trigger.state for trigger in site.deployment.status().triggers} == {"running"}, "the durable one")
    by_name = {each.host.origin.name: each for each in Source.made}
    await accepted(by_name["in"], 1)
    await settled(site)
