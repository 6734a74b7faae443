"""A loaded model as a function: one run for one event or for a stacked batch, and what is remembered from one event to the next.

Knows events by their body, path and headers alone, and onnxruntime by one callable; how a worker calls it is not its business.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgehost.errors import StartError
from edgehost.runtimes.onnx import answers
from edgehost.runtimes.onnx.plan import Plan
from edgehost.runtimes.onnx.settings import Settings, State
from edgehost.runtimes.onnx.tensors import Array, InputError, TensorType, decode

Tensors = dict[str, Array]
Answered = dict[str, Any] | answers.Answer
Run = Callable[[list[str], Tensors], list[Any]]
"""onnxruntime's InferenceSession.run: output names and inputs in, output values out."""


@dataclass
class Memory:
    """The states of a worker, by key; the one used longest ago makes room for one too many."""

    how: State
    first: Mapping[str, Array]
    kept: OrderedDict[str, Mapping[str, Array]] = field(default_factory=OrderedDict)

    def recall(self, event: Any) -> tuple[str, Mapping[str, Array]]:
        """The key of this event and the state it meets."""
        key = self._key(event)
        if self.how.reset_header and event.get_header(self.how.reset_header) is not None:
            self.kept.pop(key, None)
        return key, self.kept.get(key, self.first)

    def keep(self, key: str, state: Mapping[str, Array]) -> None:
        """Remember what the next event of this key meets."""
        self.kept[key] = state
        self.kept.move_to_end(key)
        if len(self.kept) > self.how.max_keys:
            self.kept.popitem(last=False)

    def _key(self, event: Any) -> str:
        if self.how.key == "path":
            return str(event.path)
        if self.how.key.startswith("header:"):
            return str(event.get_header(self.how.key.removeprefix("header:")) or "")
        return ""


class Model:
    """One event in, one answer out; the state moves on only when the run went well."""

    def __init__(self, settings: Settings, plan: Plan, labels: Sequence[str], run: Run) -> None:
        self._settings = settings
        self._plan = plan
        self._labels = labels
        self._run = run
        self._memory = Memory(settings.state, plan.first_state)

    def answer(self, event: Any) -> Answered:
        """Run the model on one event. Raises InputError when the event does not hold what the model takes."""
        tensors = self.tensors(event)
        if self._plan.stateless:
            return self._alone(tensors)
        key, state = self._memory.recall(event)
        fed = self._with_state(tensors, state)
        outputs = self._ran(fed)
        encoded = self._encode({name: outputs[name] for name in self._plan.answered})
        self._memory.keep(key, self._next_state(fed, outputs))
        return encoded

    def answer_all(self, events: Sequence[Any]) -> list[Answered | Exception]:
        """Run the model on a batch: in as few runs as shapes allow, one by one where the model or its state forbids it."""
        if not (self._plan.stateless and self._plan.wanted and all(each.batches for each in self._plan.wanted.values())):
            return [_caught(self.answer, event) for event in events]
        decoded = [_caught(self.tensors, event) for event in events]
        answered: list[Answered | Exception] = [each if isinstance(each, Exception) else {} for each in decoded]
        groups: dict[Any, list[int]] = {}
        for index, tensors in enumerate(decoded):
            if not isinstance(tensors, Exception):
                groups.setdefault(_stacks_with(tensors), []).append(index)
        for members in groups.values():
            for index, result in zip(members, self._stacked([decoded[each] for each in members]), strict=True):
                answered[index] = result
        return answered

    def about(self) -> dict[str, Any]:
        """What an event has to hold and what it gets back; also the answer to a GET without a body."""
        how = self._settings
        takes = {name: str(each) for name, each in self._plan.wanted.items()}
        if how.input.decode == "raw":
            takes[self._plan.main] = f"{how.input.dtype}{list(how.input.shape or (-1,))}"
        return {
            "model": how.model,
            "decode": how.input.decode,
            "takes": takes,
            "encode": how.output.encode,
            "gives": list(self._plan.answered),
        }

    @property
    def guessed(self) -> list[str]:
        """The inputs whose size nobody told, so that `rehearse` takes 1 for what the model leaves open."""
        told = {*self._settings.shapes, self._plan.main if self._settings.input.shape else ""}
        return [name for name, each in self._plan.wanted.items() if None in each.shape and name not in told]

    def rehearse(self) -> None:
        """Run once on zeros, as an event would, and forget it: the first event finds everything warm, and faults show at start.

        Raises StartError when the outputs can't be encoded as the manifest says; what onnxruntime raises comes out as it is.
        """
        tensors = {name: self._zeros(each) for name, each in self._plan.wanted.items()}
        outputs = self._ran(self._with_state(tensors, self._plan.first_state))
        try:
            self._encode({name: outputs[name] for name in self._plan.answered})
        except ValueError as error:
            raise StartError(str(error)) from error

    def _zeros(self, target: TensorType) -> Array:
        how, shape = self._settings.input, self._settings.shapes.get(target.name)
        if target.name == self._plan.main and how.shape:
            size = int(np.prod([max(axis, 1) for axis in how.shape], dtype=np.int64)) * np.dtype(how.dtype).itemsize
            return decode(bytes(size), how, target.name, {target.name: target})[target.name]
        if shape and target.name == self._plan.main and (overlap := self._settings.state.overlap):
            shape = (*shape[:-1], shape[-1] - overlap)
        zeros = np.zeros(target.concrete(shape), target.dtype)
        return zeros if target.dtype != object else np.full(zeros.shape, "", object)

    def tensors(self, event: Any) -> Tensors:
        """The tensors an event holds, by input name."""
        return decode(event.body, self._settings.input, self._plan.main, self._plan.wanted)

    def _stacked(self, members: Sequence[Any]) -> Sequence[Answered | Exception]:
        sizes = [next(iter(tensors.values())).shape[0] for tensors in members]
        joined = {name: np.concatenate([tensors[name] for tensors in members]) for name in self._plan.wanted}
        outputs = _caught(self._ran, joined)
        if isinstance(outputs, Exception) or not all(_rows(value) == sum(sizes) for value in outputs.values()):
            return [_caught(self._alone, tensors) for tensors in members]
        cuts = [slice(end - size, end) for size, end in zip(sizes, np.cumsum(sizes), strict=True)]
        return [_caught(self._encode, {name: value[cut] for name, value in outputs.items()}) for cut in cuts]

    def _alone(self, tensors: Tensors) -> Answered:
        return self._encode(self._ran(tensors))

    def _ran(self, fed: Tensors) -> dict[str, Any]:
        names = self._plan.outputs
        return dict(zip(names, self._run(names, {**fed, **self._plan.constants}), strict=True))

    def _with_state(self, tensors: Tensors, state: Mapping[str, Array]) -> Tensors:
        fed = {**tensors, **{name: state[name] for _, name in self._plan.carry}}
        if self._settings.state.overlap:
            main, tail = self._plan.main, state[self._plan.main]
            if tail.shape[:-1] != tensors[main].shape[:-1]:
                has, kept = list(tensors[main].shape), list(tail.shape[:-1])
                raise InputError(f"the input {main!r} has shape {has}; its state has {kept} before the last axis")
            fed[main] = np.concatenate([tail, tensors[main]], axis=-1)
        return fed

    def _next_state(self, fed: Tensors, outputs: Mapping[str, Any]) -> Mapping[str, Array]:
        state = {name: outputs[output] for output, name in self._plan.carry}
        for name, value in state.items():
            was, now = list(self._plan.first_state[name].shape), list(value.shape)
            if was != now:
                raise InputError(f"this event turns the state {name!r} from shape {was} into {now}; send one row an event")
        if overlap := self._settings.state.overlap:
            state[self._plan.main] = fed[self._plan.main][..., -overlap:].copy()
        return state

    def _encode(self, outputs: Mapping[str, Any]) -> Answered:
        how = self._settings.output
        if how.encode == "json":
            return answers.as_json(outputs)
        name, value = next(iter(outputs.items()))
        if how.encode == "labels":
            return answers.as_labels(value, self._labels, how)
        return answers.as_raw(name, value) if how.encode == "raw" else answers.as_npy(name, value)


def _stacks_with(tensors: Tensors) -> tuple[Any, ...]:
    """Equal for events that fit into one run: inputs alike but for the first axis. One whose inputs differ there runs alone."""
    if len({tensor.shape[0] for tensor in tensors.values()}) > 1:
        return (id(tensors),)
    return tuple((name, tensor.shape[1:]) for name, tensor in tensors.items())


def _rows(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return int(value.shape[0]) if value.ndim else -1
    return len(value) if isinstance(value, list) else -1


def _caught(call: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return call(argument)
    except Exception as error:  # one member of a batch must not fail the others
        return error
