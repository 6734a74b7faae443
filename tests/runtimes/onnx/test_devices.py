"""Which devices an onnx function's workers may open without being told: those of the providers it may use."""

from __future__ import annotations

from typing import Any

import pytest

from edgehost.runtimes.onnx import OnnxRuntime
from edgehost.runtimes.onnx.settings import Settings


@pytest.mark.parametrize(
    ("providers", "board", "nvidia"),
    [
        (("CPUExecutionProvider",), ("CUDAExecutionProvider",), False),
        (("CUDAExecutionProvider", "CPUExecutionProvider"), (), True),
        (("TensorrtExecutionProvider",), (), True),
        ("auto", ("TensorrtExecutionProvider", "CPUExecutionProvider"), True),
        ("auto", ("CPUExecutionProvider",), False),
    ],
)
def test_nvidias_devices_come_with_its_providers(providers: Any, board: tuple[str, ...], nvidia: bool) -> None:
    devices = OnnxRuntime.devices(Settings(model="m.onnx", providers=providers), board)
    assert ("/dev/nvidia*" in devices) == nvidia
