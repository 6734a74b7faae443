"""From an event's body to the tensors a model takes. Pure: arrays in, arrays out; knows nothing of onnxruntime or events.

Every complaint is a InputError that says what came, what was expected and what to do, short enough for a log line.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgehost.runtimes.onnx.settings import Dtype, Input, Numbers, Shape

Array = npt.NDArray[Any]
SHOWN = 200
NPY_HEADER_MOST = 16 * 1024
"""NumPy itself refuses headers over 10,000 bytes."""


class InputError(ValueError):
    """The event does not hold what the model takes."""


@dataclass(frozen=True)
class TensorType:
    """One input or output as the model declares it. An open dimension is None; `dtype` is None for what NumPy can't hold."""

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        """As people write it: `float32[?, 4]`."""
        return f"{self.dtype}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"

    @property
    def batches(self) -> bool:
        """Whether the first dimension is open, so that several events fit into one run."""
        return bool(self.shape) and self.shape[0] is None

    def concrete(self, given: Sequence[int] | None = None) -> tuple[int, ...]:
        """A shape with no dimension open: `given` where the manifest says one, else 1 for each open one."""
        return tuple(given) if given is not None else tuple(1 if size is None else size for size in self.shape)


def decode_json(body: Any, main: str, wanted: Sequence[str]) -> dict[str, Any]:
    """Nested lists by input name. `body` is JSON text or what it parsed to; a value that is no object is the input `main`."""
    if isinstance(body, bytes | bytearray | memoryview):
        try:
            body = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"the body is no JSON ({_short(error)}); send lists, or an object with {_listed(wanted)}") from error
    if not isinstance(body, dict):
        if not main:
            raise InputError(f"the model has several inputs; send an object with {_listed(wanted)}")
        return {main: body}
    unknown, missing = sorted(set(body) - set(wanted)), sorted(set(wanted) - set(body))
    if unknown:
        raise InputError(f"{_short(_listed(unknown))} is not an input to send; send {_listed(wanted)}")
    if missing:
        raise InputError(f"the input {_listed(missing)} is missing in the body")
    return body


def decode_raw(body: bytes | memoryview, dtype: Dtype, shape: Shape) -> Array:
    """Little-endian numbers of one type, without a copy. `shape` may hold one -1; empty means one flat axis."""
    kind = np.dtype(dtype).newbyteorder("<")
    size = len(memoryview(body).cast("B"))
    known = int(np.prod([n for n in shape if n >= 0], dtype=np.int64)) * kind.itemsize
    opened = not shape or -1 in shape
    if (opened and (known == 0 or size % known)) or (not opened and size != known):
        raise InputError(
            f"the body has {size} bytes; {dtype}{list(shape) or ''} takes {f'a multiple of {known}' if opened else known}"
        )
    return np.frombuffer(body, dtype=kind).reshape(shape or (-1,))


def decode_npy(body: bytes | memoryview) -> Array:
    """The array of a .npy file (versions 1 and 2), without a copy. Never unpickles, nor believes a size the file lacks."""
    stream = io.BytesIO(body[:NPY_HEADER_MOST])
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read_header(stream)
    except Exception as error:  # NumPy reads the header as Python source: a damaged one raises whatever its tokenizer does
        raise InputError(f"the body is not a .npy file ({_short(error)}); send what numpy.save writes") from error
    if dtype.kind not in "biuf":
        raise InputError(f"the .npy file holds {dtype}; send numbers or booleans")
    start, size = stream.tell(), dtype.itemsize
    for axis in shape:
        size *= axis
    if any(axis < 0 for axis in shape) or len(body) - start != size:
        raise InputError(f"the .npy file holds {len(body) - start} bytes of numbers; its header {dtype}{list(shape)} says {size}")
    return np.frombuffer(body, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


def scaled(array: Array, mean: Numbers, scale: Numbers) -> Array:
    """`(array - mean) * scale`, in float32 unless the array is float64; one number, or one per entry of the last axis."""
    if mean == 0.0 and scale == 1.0:
        return array
    for numbers in (mean, scale):
        if isinstance(numbers, tuple) and (array.ndim == 0 or len(numbers) != array.shape[-1]):
            raise InputError(f"[onnx.input] mean or scale has {len(numbers)} numbers, the body's shape is {list(array.shape)}")
    work = np.float64 if array.dtype == np.float64 else np.float32
    result: Array = (array.astype(work) - np.asarray(mean, work)) * np.asarray(scale, work)
    return result


def transposed(array: Array, axes: Sequence[int]) -> Array:
    """The axes in another order; none given means as they are."""
    if not axes:
        return array
    if sorted(axes) != list(range(array.ndim)):
        raise InputError(f"[onnx.input].transpose {list(axes)} is not an order of the {array.ndim} axes of the body")
    result: Array = array.transpose(axes)
    return result


def fit(value: Any, target: TensorType) -> Array:
    """`value` (nested lists or an array) as the tensor `target`: cast without loss, a missing batch axis added, shape checked."""
    array = _cast(value, target)
    if array.ndim == len(target.shape) - 1 and target.shape[0] in (None, 1):
        array = array[np.newaxis]
    fits = array.ndim == len(target.shape) and all(
        want is None or want == have for want, have in zip(target.shape, array.shape, strict=True)
    )
    if not fits:
        raise InputError(f"the input {target.name!r} has shape {list(array.shape)}; the model takes {target}")
    return np.asarray(array, order="C")


def _cast(value: Any, target: TensorType) -> Array:
    if target.dtype is None:
        raise InputError(f"the input {target.name!r} is of a type that events can't hold")
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"the input {target.name!r} is not a regular nested list ({_short(error)})") from error
    if target.dtype == object:
        return _strings(array, target)
    if array.dtype == target.dtype:
        return array
    if array.size == 0 and isinstance(value, list):
        return array.astype(target.dtype)
    if not _castable(array.dtype, target.dtype):
        kind = "text or null" if array.dtype.kind in "OUS" else str(array.dtype)
        raise InputError(f"the input {target.name!r} holds {kind}; the model takes {target}")
    cast = array.astype(target.dtype)
    if target.dtype.kind in "iu" and not np.array_equal(cast, array):
        raise InputError(f"the input {target.name!r} has a number that {target.dtype} can't hold")
    return cast


def _castable(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Numbers of one kind, or of a wider one; integers always, their values are looked at afterwards."""
    if source.kind in "iu" and target.kind in "iu":
        return True
    return source.kind in "biuf" and np.can_cast(source, target, "same_kind")


def _strings(array: Array, target: TensorType) -> Array:
    strings = array.astype(object)
    if not all(isinstance(item, str) for item in strings.flat):
        raise InputError(f"the input {target.name!r} holds more than text; the model takes strings")
    return strings


def decode(body: Any, how: Input, main: str, wanted: Mapping[str, TensorType]) -> dict[str, Array]:
    """The tensors of one event by input name: every one of `wanted`, ready to run. `main` is "" when the event must name them."""
    values = _values(body, how, main, list(wanted))
    if main and (how.mean != 0.0 or how.scale != 1.0 or how.transpose):
        values[main] = transposed(scaled(_numbers(values[main], main), how.mean, how.scale), how.transpose)
    return {name: fit(values[name], target) for name, target in wanted.items()}


def _values(body: Any, how: Input, main: str, wanted: Sequence[str]) -> dict[str, Any]:
    if how.decode == "json":
        return dict(decode_json(body, main, wanted))
    if not isinstance(body, bytes | bytearray | memoryview):
        raise InputError(f"the body is application/json; [onnx.input].decode is {how.decode!r}: send application/octet-stream")
    if how.decode == "raw":
        return {main: decode_raw(bytes(body) if isinstance(body, bytearray) else body, how.dtype, how.shape)}
    return {main: decode_npy(bytes(body) if isinstance(body, bytearray) else body)}


def _numbers(value: Any, name: str) -> Array:
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"the input {name!r} is not a regular nested list ({_short(error)})") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"the input {name!r} holds something that is not a number")
    return array


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _short(what: object) -> str:
    text = " ".join(str(what).split())
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
