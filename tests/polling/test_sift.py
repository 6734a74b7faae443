"""Which records are new or changed, by tables and by anything hypothesis thinks of."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.polling import Memory, Rules, Sifted, sift


def sift_all(reads: list[list[Any]], rules: Rules) -> list[Sifted]:
    """One read after another, each handled whole."""
    memory, sifted = Memory(), []
    for records in reads:
        sifted.append(sift(records, rules, memory))
        memory = sifted[-1].memory
    return sifted


def found(reads: list[list[Any]], rules: Rules) -> list[list[tuple[Any, str]]]:
    return [[(one.record, one.change) for one in sifted.found] for sifted in sift_all(reads, rules)]


def row(id: int, value: str = "", at: Any = None) -> dict[str, Any]:
    return {"id": id, "value": value, **({} if at is None else {"at": at})}


def test_without_a_key_what_was_not_there_is_new() -> None:
    reads = [[{"t": 1}], [{"t": 1}], [{"t": 2}], [{"t": 1}], [], [{"t": 1}]]
    assert found(reads, Rules()) == [[({"t": 1}, "new")], [], [({"t": 2}, "new")], [({"t": 1}, "new")], [], [({"t": 1}, "new")]]


def test_the_order_of_fields_is_no_change() -> None:
    assert found([[{"a": 1, "b": 2}], [{"b": 2, "a": 1}]], Rules())[1] == []


def test_a_key_tells_new_from_changed() -> None:
    reads = [[row(1, "a"), row(2, "b")], [row(1, "a"), row(2, "c"), row(3, "d")], [row(3, "d")]]
    rules = Rules(key=("id",))
    assert found(reads, rules)[1:] == [[(row(2, "c"), "changed"), (row(3, "d"), "new")], []]
    assert found(reads, Rules(key=("id",), emit="new"))[1] == [(row(3, "d"), "new")]
    assert [len(read) for read in found(reads, Rules(key=("id",), emit="always"))] == [2, 3, 1]


def test_a_key_of_two_fields_and_one_in_a_table() -> None:
    reads = [[{"at": {"room": 1}, "kind": "t"}, {"at": {"room": 1}, "kind": "h"}, {"at": {"room": 2}, "kind": "t"}]]
    assert len(found(reads, Rules(key=("at.room", "kind")))[0]) == 3


@pytest.mark.parametrize("rules", [Rules(), Rules(key=("id",)), Rules(cursor="id"), Rules(key=("id",), emit="new")])
def test_a_memory_that_has_not_moved_is_the_one_before(rules: Rules) -> None:
    first, second = sift_all([[row(1), row(2)]] * 2, rules)
    assert second.memory is first.memory
    assert sift([row(3)], rules, first.memory).memory != first.memory


def test_what_cannot_be_told_apart_is_left_out_and_said() -> None:
    rules = Rules(key=("id",))
    (sifted,) = sift_all([[row(1, "a"), row(1, "b"), row(1, "a"), {"x": 1}, 7]], rules)
    assert [one.record for one in sifted.found] == [row(1, "a")]
    assert sifted.unfit == (
        "two records have the key [1]; name fields in `key` that tell them apart",
        "there is no 'id' at the top, which has x",
        "there is no 'id' at the top, which is a single value",
    )


def test_a_cursor_finds_what_lies_beyond_in_any_order() -> None:
    reads = [[row(3), row(1)], [row(1), row(2), row(3), row(5), row(4)], [row(5), row(6)]]
    assert found(reads, Rules(cursor="id")) == [
        [(row(3), "new"), (row(1), "new")],
        [(row(5), "new"), (row(4), "new")],
        [(row(6), "new")],
    ]
    assert sift_all(reads, Rules(cursor="id"))[-1].memory.cursor == 6


def test_a_cursor_knows_its_ties() -> None:
    """Two rows of the same second, of which one was written after the read."""
    reads = [[row(1, at="12:00:01"), row(2, at="12:00:02")], [row(2, at="12:00:02"), row(3, at="12:00:02")], []]
    reads += [[row(2, at="12:00:02"), row(3, at="12:00:02"), row(4, at="12:00:02")]]
    assert [[one["id"] for one, _ in read] for read in found(reads, Rules(cursor="at"))] == [[1, 2], [3], [], [4]]


def test_a_tie_with_a_key_can_change() -> None:
    reads = [[row(1, "a", 7)], [row(1, "b", 7)], [row(1, "b", 7)]]
    assert found(reads, Rules(key=("id",), cursor="at"))[1:] == [[(row(1, "b", 7), "changed")], []]


@pytest.mark.parametrize("place", [None, True, [1], float("nan")])
def test_a_cursor_that_is_no_place_is_left_out(place: Any) -> None:
    (sifted,) = sift_all([[{"id": place}, {"id": 1}]], Rules(cursor="id"))
    assert [one.record for one in sifted.found] == [{"id": 1}]
    assert "it must be a number or text" in sifted.unfit[0]


def test_a_cursor_does_not_turn_from_number_to_text() -> None:
    sifted = sift_all([[{"id": 2}], [{"id": "3"}, {"id": 4}]], Rules(cursor="id"))[1]
    assert [one.record for one in sifted.found] == [{"id": 4}]
    assert sifted.unfit == ("the cursor 'id' of a record is '3' and was 2 before; it must stay text or a number",)


def test_a_value_that_comes_back_counts_as_another_event() -> None:
    counts = [sifted.memory.count for sifted in sift_all([[1], [1], [2], [1], []], Rules())]
    assert counts == [1, 1, 2, 3, 3]


RECORDS = st.lists(st.fixed_dictionaries({"id": st.integers(0, 5), "at": st.integers(0, 5), "v": st.integers(0, 2)}), max_size=8)
RULES = st.sampled_from([Rules(), Rules(key=("id",)), Rules(cursor="at"), Rules(key=("id",), cursor="at")])


@given(RECORDS, RULES)
def test_the_same_read_again_brings_nothing(records: list[Any], rules: Rules) -> None:
    first, second = sift_all([records, records], rules)
    assert second.found == ()
    assert second.memory == first.memory


@given(st.lists(RECORDS, max_size=5), RULES)
def test_memory_is_no_larger_than_a_read(reads: list[list[Any]], rules: Rules) -> None:
    for records, sifted in zip(reads, sift_all(reads, rules), strict=True):
        assert rules.cursor or len(sifted.memory.seen) <= len(records)


@given(st.lists(st.integers(0, 30), unique=True), st.data())
def test_with_a_growing_cursor_each_record_is_found_once(ids: list[int], data: st.DataObject) -> None:
    """However the rows are cut into reads, and however much each read holds of those before."""
    rows, reads, done = [{"id": id} for id in sorted(ids)], [], 0
    while done < len(rows):
        upto = data.draw(st.integers(done + 1, len(rows)))
        reads.append(rows[data.draw(st.integers(0, done)) : upto])
        done = upto
    assert [one for read in found(reads, Rules(cursor="id")) for one, _ in read] == rows
