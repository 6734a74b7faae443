"""Open a model in onnxruntime and prove what runs it. In a worker only, and only after the fork: a session has threads.

A provider in `get_available_providers()` is merely compiled in, and one in `get_providers()` merely registered: both can be true
while every operator runs on the CPU. So the proof is the profile of a real inference, which names the provider of each operator.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgehost.errors import StartError
from edgehost.runtimes.onnx.settings import Settings
from edgehost.runtimes.onnx.tensors import TensorType

CPU = "CPUExecutionProvider"
ERRORS_ONLY = 3
_LEVELS = {"off": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
_DTYPES: dict[str, Any] = {
    "tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(bool)": np.bool_,
    "tensor(int8)": np.int8, "tensor(int16)": np.int16, "tensor(int32)": np.int32, "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8, "tensor(uint16)": np.uint16, "tensor(uint32)": np.uint32, "tensor(uint64)": np.uint64,
    "tensor(string)": np.object_,
}  # fmt: skip


def tensor_type(declared: Any) -> TensorType:
    """The declaration of one input or output, from onnxruntime's NodeArg."""
    dtype = np.dtype(_DTYPES[declared.type]) if declared.type in _DTYPES else None
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in declared.shape)
    return TensorType(declared.name, dtype, shape)


def of_board(order: Sequence[str]) -> tuple[str, ...]:
    """What `providers = "auto"` means: those of the board's order that this onnxruntime has; the CPU where it has none."""
    available = onnxruntime.get_available_providers()
    return tuple(name for name in order if name in available) or (CPU,)


def open_session(model: Path, settings: Settings, scratch: Path) -> Any:
    """An InferenceSession with the providers asked for (the CPU stands in last). Raises StartError for a file that is no model.

    Unless the CPU is asked for first, runs are recorded in the folder `scratch` until `unproven` reads what they showed.
    """
    asked = [(name, dict(settings.provider_options.get(name, {}))) for name in settings.providers]
    available = onnxruntime.get_available_providers()
    providers = [each for each in asked if each[0] in available]
    if CPU not in settings.providers:
        providers.append((CPU, {}))
    try:
        with warnings.catch_warnings(record=True):  # what they would say, the proof says with advice
            return onnxruntime.InferenceSession(str(model), _options(settings, scratch), providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no class in common
        raise StartError(f"the model {model.name} can't be loaded: {_first_line(error)}") from error


def _options(settings: Settings, scratch: Path) -> Any:
    said, options = settings.session, onnxruntime.SessionOptions()
    options.intra_op_num_threads = said.intra_op_threads
    options.inter_op_num_threads = said.inter_op_threads
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{_LEVELS[said.optimization]}")
    options.enable_cpu_mem_arena = said.arena
    options.log_severity_level = ERRORS_ONLY
    spinning = "1" if said.spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    if not said.prepacking:
        options.add_session_config_entry("session.disable_prepacking", "1")
    for name, value in said.config.items():
        options.add_session_config_entry(name, value)
    if settings.providers[0] != CPU:
        options.enable_profiling = True
        options.profile_file_prefix = str(scratch / "first")
    return options


def declared(session: Any) -> tuple[list[TensorType], list[str]]:
    """The inputs, and the names of the outputs."""
    return [tensor_type(each) for each in session.get_inputs()], [each.name for each in session.get_outputs()]


def unproven(session: Any, settings: Settings) -> str:
    """After a first inference: what is wrong with the provider asked for first. Empty when it ran some of the model."""
    if settings.providers[0] == CPU:
        return ""
    nodes = operators(Path(session.end_profiling()).read_bytes())
    return verdict(settings.providers[0], onnxruntime.get_available_providers(), nodes)


def operators(profile: bytes) -> dict[str, int]:
    """Operators run by each provider, from onnxruntime's profile (Chrome trace events; an operator's has `args.provider`)."""
    found = (record.get("args", {}).get("provider") for record in json.loads(profile) if record.get("cat") == "Node")
    return dict(Counter(provider for provider in found if provider))


def verdict(asked: str, available: Sequence[str], nodes: Mapping[str, int]) -> str:
    """What was asked for, what ran and what to do; empty when `asked` ran at least one operator."""
    if nodes.get(asked, 0) > 0:
        return ""
    ran = ", ".join(f"{name} ({count} operators)" for name, count in nodes.items()) or "nothing yet"
    if asked not in available:
        advice = f"this onnxruntime has {', '.join(available)}: install the build for your board, or name one of these"
    else:
        advice = "it is compiled in but took no operator: check its driver and libraries, or name the provider that ran"
    return f"[onnx].providers asks for {asked} first, but the first inference ran on {ran}; {advice}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
