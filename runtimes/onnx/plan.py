"""Which input of a model comes from where, and which outputs are answered: the manifest matched with what the model declares.

Pure. Every mismatch is a StartError that names the manifest's key and what the model has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgehost.errors import StartError
from edgehost.runtimes.onnx.settings import Settings
from edgehost.runtimes.onnx.tensors import Array, InputError, TensorType, fit


@dataclass(frozen=True)
class Plan:
    """Where each input comes from and which outputs are answered, checked once against the model."""

    wanted: Mapping[str, TensorType]
    """The inputs an event fills, as the event has to hold them."""
    main: str
    """The input a bare body fills, or "" when an event must name its inputs."""
    constants: Mapping[str, Array]
    first_state: Mapping[str, Array]
    """The zeros of the carried inputs and, under the main input's name, of the overlap."""
    carry: tuple[tuple[str, str], ...]
    answered: tuple[str, ...]

    @property
    def stateless(self) -> bool:
        return not self.first_state

    @property
    def outputs(self) -> list[str]:
        """Every output a run has to give: the answered ones, then the carried ones."""
        return [*self.answered, *(output for output, _ in self.carry if output not in self.answered)]


def plan(settings: Settings, inputs: Sequence[TensorType], outputs: Sequence[str]) -> Plan:
    """Match the manifest with what the model declares. Raises StartError naming the key that fits nothing in the model."""
    types = {each.name: each for each in inputs}
    carry = settings.state.carry
    _known("[onnx.constants]", settings.constants, types, "input")
    _known("[onnx.shapes]", settings.shapes, types, "input")
    _known("[onnx.state].carry", carry, outputs, "output")
    _known("[onnx.state].carry", carry.values(), types, "input")
    _known("[onnx.output].names", settings.output.names, outputs, "output")
    wanted = {name: each for name, each in types.items() if name not in settings.constants and name not in carry.values()}
    for each in wanted.values():
        if each.dtype is None:
            raise StartError(f"the input {each.name!r} is of a type no event can hold; export the model with another")
    main = _main_input(settings, wanted)
    first_state = {name: _zeros(types[name], settings) for name in carry.values()}
    if settings.state.overlap:
        wanted[main], first_state[main] = _overlapped(wanted[main], settings)
    answered = settings.output.names or tuple(name for name in outputs if name not in carry)
    if settings.output.encode != "json" and len(answered) != 1:
        raise StartError(
            f"[onnx.output].encode = {settings.output.encode!r} answers with one output; name it: "
            f'[onnx.output].names = ["{answered[0] if answered else next(iter(outputs))}"] (the model has {", ".join(outputs)})'
        )
    return Plan(wanted, main, _constants(settings, types), first_state, tuple(carry.items()), answered)


def _known(key: str, said: Iterable[str], there: Iterable[str], what: str) -> None:
    has = list(there)
    for name in said:
        if name not in has:
            raise StartError(f"{key}: {name!r} is not an {what} of the model; it has {', '.join(has)}")


def _main_input(settings: Settings, wanted: Mapping[str, TensorType]) -> str:
    how = settings.input
    if how.name:
        _known("[onnx.input].name", [how.name], wanted, "input")
    elif len(wanted) == 1:
        return next(iter(wanted))
    needs_one = how.decode != "json" or settings.state.overlap > 0 or how.mean != 0.0 or how.scale != 1.0 or how.transpose != ()
    if how.name and (len(wanted) == 1 or how.decode == "json"):
        return how.name
    if needs_one:
        takes = ", ".join(f"{name} {each}" for name, each in wanted.items()) or "no input"
        raise StartError(
            f"the model takes {takes}; a {how.decode} event fills one: say which in [onnx.input].name and give the others in "
            "[onnx.constants] or [onnx.state].carry"
        )
    return ""


def _zeros(target: TensorType, settings: Settings) -> Array:
    if target.dtype is None or target.dtype == object:
        raise StartError(f"the input {target.name!r} holds no numbers, so [onnx.state] can't carry it")
    return fit(np.zeros(target.concrete(settings.shapes.get(target.name)), target.dtype), target)


def _overlapped(target: TensorType, settings: Settings) -> tuple[TensorType, Array]:
    """What an event has to hold of an input that begins with `overlap` values of the event before, and the first such values."""
    overlap = settings.state.overlap
    last = target.shape[-1] if target.shape else 0
    if last is not None and last <= overlap:
        raise StartError(f"[onnx.state].overlap = {overlap} leaves nothing of the input {target.name!r}, {target}")
    shape = (*target.concrete(settings.shapes.get(target.name))[:-1], overlap)
    return replace(target, shape=(*target.shape[:-1], None if last is None else last - overlap)), np.zeros(shape, target.dtype)


def _constants(settings: Settings, types: Mapping[str, TensorType]) -> dict[str, Array]:
    try:
        return {name: fit(value, types[name]) for name, value in settings.constants.items()}
    except InputError as error:
        raise StartError(f"[onnx.constants]: {error}") from error
