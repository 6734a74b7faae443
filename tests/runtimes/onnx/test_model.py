from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest

from edgehost.errors import StartError
from edgehost.runtimes.onnx.model import Model
from edgehost.runtimes.onnx.plan import plan
from edgehost.runtimes.onnx.settings import Settings
from edgehost.runtimes.onnx.tensors import InputError, TensorType
from edgehost.sdk.event import Event

F32 = np.dtype("float32")
INPUTS = (TensorType("x", F32, (None, 2)), TensorType("s", F32, (None, 2)), TensorType("rate", np.dtype("int64"), ()))


def settings(**table: Any) -> Settings:
    return msgspec.convert({"model": "m.onnx", **table}, Settings)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"constants": {"sr": 1}}, r"\[onnx.constants\]: 'sr' is not an input of the model; it has x, s, rate"),
        ({"shapes": {"sr": [1]}}, r"\[onnx.shapes\]: 'sr' is not an input"),
        ({"state": {"carry": {"z": "s"}}}, r"\[onnx.state\].carry: 'z' is not an output of the model; it has y, t"),
        ({"state": {"carry": {"t": "z"}}}, r"\[onnx.state\].carry: 'z' is not an input"),
        ({"output": {"names": ["z"]}}, r"\[onnx.output\].names: 'z' is not an output"),
        ({"input": {"name": "z"}}, r"\[onnx.input\].name: 'z' is not an input"),
        ({"input": {"name": "rate"}, "constants": {"rate": 1}}, r"\[onnx.input\].name: 'rate' is not an input"),
        ({"input": {"decode": "raw"}}, r"a raw event fills one: say which in \[onnx.input\].name"),
        ({"input": {"decode": "raw", "name": "x"}}, r"give the others in \[onnx.constants\]"),
        ({"input": {"mean": 0.5}}, r"a json event fills one"),
        ({"output": {"encode": "raw"}}, r"answers with one output; name it: \[onnx.output\].names = \[\"y\"\]"),
        ({"constants": {"rate": "fast"}}, r"\[onnx.constants\]: the input 'rate' holds text"),
        ({"constants": {"rate": [1, 2]}}, r"\[onnx.constants\]: the input 'rate' has shape \[2\]"),
        ({"input": {"name": "x"}, "state": {"overlap": 2}, "constants": {"rate": 1, "s": [0, 0]}}, r"overlap = 2 leaves nothing"),
    ],
)
def test_a_manifest_that_does_not_fit_the_model_names_the_key_and_what_there_is(table: dict[str, Any], message: str) -> None:
    with pytest.raises(StartError, match=message):
        plan(settings(**table), INPUTS, ["y", "t"])


def test_events_fill_what_neither_constants_nor_state_do() -> None:
    planned = plan(settings(constants={"rate": 16000}, state={"carry": {"t": "s"}}), INPUTS, ["y", "t"])
    assert planned.main == "x" and list(planned.wanted) == ["x"]
    assert planned.answered == ("y",) and planned.outputs == ["y", "t"]
    assert planned.constants["rate"].tolist() == 16000
    assert planned.first_state["s"].tolist() == [[0.0, 0.0]]


class Doubler:
    """Stands for onnxruntime: y = 2 x, and counts its runs."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, ...]] = []

    def __call__(self, outputs: list[str], inputs: Mapping[str, Any]) -> list[Any]:
        self.runs.append(inputs["x"].shape)
        if (inputs["x"] < 0).any():
            raise RuntimeError("negative")
        return [inputs["x"] * 2 for _ in outputs]


def model(run: Any, *shape: int | None, **table: Any) -> Model:
    given = settings(**table)
    return Model(given, plan(given, [TensorType("x", F32, shape)], ["y"]), (), run)


def answers(model: Model, *bodies: Any) -> list[Any]:
    return model.answer_all([Event(body=body) for body in bodies])


def test_a_batch_is_one_run_and_each_event_gets_its_own_rows() -> None:
    run = Doubler()
    found = answers(model(run, None, 2), [1, 2], [[3, 4], [5, 6]], [7, 8])
    assert found == [{"y": [[2.0, 4.0]]}, {"y": [[6.0, 8.0], [10.0, 12.0]]}, {"y": [[14.0, 16.0]]}]
    assert run.runs == [(4, 2)]


def test_events_of_other_shapes_run_apart() -> None:
    run = Doubler()
    assert answers(model(run, None, None), [1, 2], [1], [3, 4]) == [{"y": [[2.0, 4.0]]}, {"y": [[2.0]]}, {"y": [[6.0, 8.0]]}]
    assert sorted(run.runs) == [(1, 1), (2, 2)]


def test_a_model_for_one_row_runs_the_members_of_a_batch_one_by_one() -> None:
    run = Doubler()
    assert answers(model(run, 1, 2), [1, 2], [3, 4]) == [{"y": [[2.0, 4.0]]}, {"y": [[6.0, 8.0]]}]
    assert run.runs == [(1, 2), (1, 2)]


def test_a_member_that_can_not_be_read_does_not_fail_the_others() -> None:
    run = Doubler()
    good, bad, also_good = answers(model(run, None, 2), [1, 2], b"{", [3, 4])
    assert (good, also_good) == ({"y": [[2.0, 4.0]]}, {"y": [[6.0, 8.0]]})
    assert isinstance(bad, InputError)
    assert run.runs == [(2, 2)]


def test_a_member_that_fails_in_the_model_does_not_fail_the_others() -> None:
    good, bad = answers(model(Doubler(), None, 2), [1, 2], [-1, 2])
    assert good == {"y": [[2.0, 4.0]]}
    assert isinstance(bad, RuntimeError)


def test_outputs_without_a_row_for_each_event_are_run_one_by_one() -> None:
    runs = []

    def summed(outputs: list[str], inputs: Mapping[str, Any]) -> list[Any]:
        runs.append(inputs["x"].shape)
        return [inputs["x"].sum()]

    assert answers(model(summed, None, 2), [1, 2], [3, 4]) == [{"y": 3.0}, {"y": 7.0}]
    assert runs == [(2, 2), (1, 2), (1, 2)]


@pytest.mark.parametrize(
    ("table", "ran"),
    [
        ({}, (1, 2)),
        ({"shapes": {"x": [3, 2]}}, (3, 2)),
        ({"input": {"decode": "raw", "dtype": "int16", "shape": [4, 2]}}, (4, 2)),
        ({"shapes": {"x": [3, 2]}, "state": {"overlap": 1}}, (3, 2)),
    ],
)
def test_the_rehearsal_runs_the_shape_events_will_have(table: dict[str, Any], ran: tuple[int, ...]) -> None:
    run = Doubler()
    model(run, None, 2, **table).rehearse()
    assert run.runs == [ran]
