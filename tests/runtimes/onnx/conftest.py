"""What tests of the onnx runtime share: tiny models written by hand, and a way to load one as a worker would."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgehost.engine.spec import WorkerSpec
from edgehost.runtimes.onnx import OnnxRuntime
from edgehost.runtimes.onnx.settings import Settings
from edgehost.sdk.event import Event

# onnx.proto3: the numbers of TensorProto.DataType.
ELEMENTS = {"float": 1, "uint8": 2, "int32": 6, "int64": 7, "string": 8, "bool": 9, "double": 11, "bfloat16": 16}
Tensor = tuple[str, Sequence[int | str]]


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(number: int, value: int | str | bytes) -> bytes:
    """One protobuf field: a number as varint, text and messages by length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _value_info(name: str, tensor: Tensor) -> bytes:
    element, shape = tensor
    dims = b"".join(_field(1, _field(1 if isinstance(size, int) else 2, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, ELEMENTS[element]) + _field(2, dims)))


def model_bytes(nodes: Sequence[tuple[str, str, str]], inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> bytes:
    """A ModelProto (IR 8, opset 17). A node is (operator, "input input", "output"); a text in a shape is an open dimension."""
    graph = _field(2, "tiny")
    for operator, takes, gives in nodes:
        node = b"".join(_field(1, name) for name in takes.split()) + b"".join(_field(2, name) for name in gives.split())
        graph += _field(1, node + _field(4, operator))
    graph += b"".join(_field(11, _value_info(name, tensor)) for name, tensor in inputs.items())
    graph += b"".join(_field(12, _value_info(name, tensor)) for name, tensor in outputs.items())
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 17))


class FakeLink:
    """Keeps what a runtime logs."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str]] = []
        self.secrets: dict[str, str | bytes] = {}

    def log(self, level: str, message: str, fields: dict[str, Any], event_id: str | None = None) -> None:
        msgspec.json.encode(fields)
        self.records.append((level, message))

    def warnings(self) -> list[str]:
        return [message for level, message in self.records if level == "warning"]


class Loaded:
    """A function as a worker holds it."""

    def __init__(self, program: Any, link: FakeLink) -> None:
        self.program = program
        self.warnings = link.warnings()

    def __call__(self, body: Any, **event: Any) -> Any:
        """The body of the answer to one event."""
        return self.response(body, **event).body

    def response(self, body: Any, **event: Any) -> Any:
        return self.program.handle(Event(body=body, **event))

    def batch(self, *bodies: Any) -> list[Any]:
        return list(self.program.handle([Event(body=body, id=str(number)) for number, body in enumerate(bodies)]))


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., str]:
    """`write_model(nodes, inputs, outputs)`: writes model.onnx into tmp_path, gives its name."""

    def write(nodes: Any, inputs: Any, outputs: Any) -> str:
        (tmp_path / "model.onnx").write_bytes(model_bytes(nodes, inputs, outputs))
        return "model.onnx"

    return write


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Loaded]:
    """`load(model=..., input={...})`: check and load the function in tmp_path (or `folder`) with this `[onnx]`, on a board with
    these providers."""

    def load(folder: Path = tmp_path, board: tuple[str, ...] = (), **table: Any) -> Loaded:
        settings = msgspec.convert(table, Settings)
        OnnxRuntime.check(folder, "", settings)
        link = FakeLink()
        encoded = msgspec.Raw(msgspec.msgpack.encode(settings))
        spec = WorkerSpec(
            *("f", "1", "", "onnx", "", str(folder), 0, 1, 60.0, "bytes", False, False, "info", {}, (), ()),
            providers=board,
            settings=encoded,
        )
        return Loaded(OnnxRuntime.load(spec, link), link)

    return load


@pytest.fixture
def wheel_models() -> Path:
    """The tiny models inside the onnxruntime wheel."""
    import onnxruntime

    return Path(onnxruntime.__file__).parent / "datasets"
