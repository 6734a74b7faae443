"""The journal's clock: never backwards and never ahead, through any sequence of restarts, reboots and steps of the wall clock."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehost.delivery import clock
from edgehost.delivery.clock import Clock, Mark
from edgehost.delivery.holdings import holdings, put_mark
from edgehost.delivery.recovery import open_journal
from edgehost.delivery.rows import Change
from edgehost.delivery.transaction import apply
from tests.delivery.samples import dead, received, stored

steps = st.lists(
    st.tuples(
        st.sampled_from(["passes", "mark", "row", "restart", "reboot", "nameless boot", "wall"]),
        st.floats(0.001, 1e7, allow_nan=False),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(steps)
def test_it_never_goes_backwards_and_never_runs_ahead(told: list[tuple[str, float]]) -> None:
    """`lived` is the time with power since the beginning: no clock of the device can know more."""
    boot, boot_s, lived = "boot 0", 50.0, 50.0
    mark, newest = Mark(), 0.0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(clock, "boot_seconds", lambda: boot_s)
        ours = Clock(mark, boot, boot_s)
        seen = ours.now()
        for what, amount in told:
            if what == "passes":
                boot_s, lived = boot_s + amount, lived + amount
            elif what == "wall":
                patched.setattr(time, "time", lambda amount=amount: amount)
            elif what == "mark":
                mark = ours.mark()
            elif what == "row":
                newest = ours.now()
            else:
                if what != "restart":
                    boot, boot_s = (f"{boot}+" if what == "reboot" else ""), min(amount, 60.0)
                    lived += boot_s
                ours = Clock(mark.at_least(newest), boot, boot_s)
                seen = max(mark.now_s, newest)
            now = ours.now()
            assert now >= seen - 1e-6 * max(1.0, seen), "what was on disk is not younger than it was"
            assert now <= lived + 1e-6 * lived, "what has not lived so long has not expired"
            seen = now


def test_within_a_boot_a_restart_counts_the_time_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "boot_seconds", lambda: 700.0)
    assert Clock(Mark("this", 500.0, 90.0), "this", 600.0).now() == 290.0
    assert Clock(Mark("other", 500.0, 90.0), "this", 600.0).now() == 190.0
    assert Clock(Mark("", 500.0, 90.0), "", 600.0).now() == 190.0


@pytest.mark.parametrize("row", [Change((received(900),)), Change(stored=(stored(900),)), Change(dead=(dead(900),))])
@pytest.mark.parametrize("marked", [b'{"boot_id":"b","boot_s":3.0,"now_s":400.0}', b"garbage", None, 7])
def test_a_row_that_is_newer_than_the_mark_counts(tmp_path: Path, row: Change, marked: Any) -> None:
    connection, _ = open_journal(tmp_path / "journal.db", False)
    with closing(connection):
        connection.execute("INSERT INTO queues VALUES (1, 'event', 'f', 'in'), (2, 'parcel', 'f', 'up')")
        connection.execute("INSERT INTO meta VALUES ('clock', ?)", (marked,))
        apply(connection, [row])
        mark, _, _ = holdings(connection)
        assert mark.now_s == 900.0
        put_mark(connection, Mark("b", 3.0, 2000.0), {})
        assert holdings(connection)[0] == Mark("b", 3.0, 2000.0)


def test_a_damaged_time_of_a_row_does_not_make_everything_expire(tmp_path: Path) -> None:
    connection, _ = open_journal(tmp_path / "journal.db", False)
    with closing(connection):
        put_mark(connection, Mark("b", 3.0, 400.0), {})
        connection.execute("INSERT INTO queues VALUES (1, 'event', 'f', 'in')")
        connection.execute("INSERT INTO events VALUES (1 << 40, x'', NULL, 1e300, 0)")
        assert holdings(connection)[0].now_s == 400.0
