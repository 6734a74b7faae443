"""Functions without code: an ONNX model file, with `[onnx]` in the manifest saying how events become tensors and outputs answers.

`OnnxRuntime` alone is imported on both sides. NumPy and onnxruntime are imported in `load`, in the worker. The zygote
may import them before it forks; a session has threads and must only be made after the fork.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from edgehost.errors import ManifestError, StartError
from edgehost.event import Origin
from edgehost.runtimes.onnx.settings import Settings

if TYPE_CHECKING:
    from edgehost.runtimes.onnx.model import Model

_NVIDIA = ("/dev/nvidia*", "/dev/nvhost*", "/dev/nvmap", "/dev/nvgpu", "/dev/nvsciipc", "/dev/dri")
_STATE_KEY = re.compile(r"(|path|header:[!#$%&'*+.^_`|~0-9A-Za-z-]+)")


@dataclass
class Context:
    """What a worker keeps current for handlers. A model reads none of it."""

    deadline: float = 0.0
    trigger: Origin = field(default_factory=Origin)
    debug: bool = False


class OnnxRuntime:
    """The runtime `onnx`. See docs/models.md for what each setting is good for."""

    Settings: ClassVar[type[Struct] | None] = Settings
    needs_handler: ClassVar[bool] = False
    preload: ClassVar[tuple[str, ...]] = (f"{__name__}.preload",)

    @staticmethod
    def check(folder: Path, handler: str, settings: Any) -> None:
        """Raise ManifestError for a missing or empty file and for keys that contradict each other, without loading the model."""
        if not isinstance(settings, Settings):
            raise ManifestError('[onnx]: runtime = "onnx" needs this table, with at least model = "FILE"')
        if handler:
            raise ManifestError(f"handler: {handler!r} is not used by the runtime onnx; leave it out")
        _check_file(folder, "model", settings.model, settings.model_source)
        if isinstance(settings.output.labels, str):
            _check_file(folder, "output.labels", settings.output.labels)
        _check_keys(settings)

    @staticmethod
    def devices(settings: Any, providers: Sequence[str]) -> Sequence[str]:
        """NVIDIA's, on a card or a Jetson, where one of its providers may be used."""
        asked = providers if settings.providers == "auto" else settings.providers
        return _NVIDIA if any(name.startswith(("CUDA", "Tensorrt", "NvTensorRt")) for name in asked) else ()

    @staticmethod
    def load(spec: Any, link: Any) -> Any:
        """Open the model, prove its provider with a first inference and return the Program that answers events with it."""
        import_module(f"{__name__}.preload")  # when no zygote has
        from edgehost.sdk.program import Program

        model = _open(Path(spec.folder), _decoded(spec.settings), spec.providers, link)
        return Program(handle=_handler(model), context=Context(debug=spec.debug))


def _check_file(folder: Path, key: str, name: str, source: str = "") -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ManifestError(f"[onnx].{key}: {name!r} is outside the function's folder {folder}; copy the file into it")
    if not path.is_file():
        raise ManifestError(f"[onnx].{key}: no file {name!r} in {folder}; {source or 'put it there, or mend the path'}")
    if path.stat().st_size == 0:
        raise ManifestError(f"[onnx].{key}: {path} is empty; copy the file again")


def _check_keys(settings: Settings) -> None:
    if not settings.providers:
        raise ManifestError('[onnx].providers: empty; leave it out for the CPU, or name one such as "CUDAExecutionProvider"')
    if settings.input.shape.count(-1) > 1:
        raise ManifestError(f"[onnx.input].shape: {list(settings.input.shape)} leaves more than one size open; use -1 once")
    if settings.input.shape and settings.input.decode != "raw":
        raise ManifestError(f'[onnx.input].shape: only decode = "raw" needs it; {settings.input.decode} bodies hold their shape')
    if not _STATE_KEY.fullmatch(settings.state.key):
        raise ManifestError(f'[onnx.state].key: {settings.state.key!r} is no key; use "path" or "header:NAME", or leave it out')
    twice = sorted(set(settings.constants) & set(settings.state.carry.values()))
    if twice:
        raise ManifestError(f"[onnx.constants].{twice[0]}: is state too ([onnx.state].carry); an input has one source")


def _decoded(settings: Any) -> Settings:
    if isinstance(settings, Settings):
        return settings
    if isinstance(settings, Mapping):
        return msgspec.convert(settings, Settings)
    return msgspec.msgpack.decode(settings, type=Settings)


def _open(folder: Path, settings: Settings, board: tuple[str, ...], link: Any) -> Model:
    """Raises StartError for a model that does not load, fit the manifest or run; what merely looks wrong is logged."""
    from edgehost.runtimes.onnx import session as onnx
    from edgehost.runtimes.onnx.answers import read_labels
    from edgehost.runtimes.onnx.model import Model
    from edgehost.runtimes.onnx.plan import plan

    begun = time.perf_counter()
    if settings.providers == "auto":
        settings = replace(settings, providers=onnx.of_board(board))
    with tempfile.TemporaryDirectory(prefix="edgehost-onnx-") as scratch:
        session = onnx.open_session(folder / settings.model, settings, Path(scratch))
        inputs, outputs = onnx.declared(session)
        labels = read_labels(settings.output.labels, folder)
        model = Model(settings, plan(settings, inputs, outputs), labels, session.run)
        problems = [_rehearsed(model, settings), onnx.unproven(session, settings)]
    for problem in filter(None, problems):
        if settings.strict_providers:
            raise StartError(f"{problem} (a failure because of [onnx].strict_providers = true)")
        link.log("warning", problem, {}, "")
    started = {**model.about(), "start_ms": round((time.perf_counter() - begun) * 1000, 1)}
    link.log("info", f"the model {settings.model} is ready", started, "")
    return model


def _rehearsed(model: Model, settings: Settings) -> str:
    """Run the model once on zeros. Gives what went wrong where a guessed shape may be the reason; raises StartError otherwise."""
    try:
        model.rehearse()
    except StartError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no class in common
        reason = " ".join(str(error).split())[:300]
        if not model.guessed:
            raise StartError(f"the model {settings.model} fails on zeros of its own shapes: {reason}") from error
        return (
            f"the model {settings.model} could not be tried at start, with 1 for every dimension that "
            f"{', '.join(model.guessed)} leaves open: {reason}; give a real shape in [onnx.shapes]"
        )
    return ""


def _handler(model: Model) -> Callable[[Any], Any]:
    from edgehost.runtimes.onnx.answers import Answer
    from edgehost.sdk.response import Response

    def response(answer: Any, event_id: str | None = None) -> Response:
        if isinstance(answer, Answer):
            return Response(dict(answer.headers), answer.body, answer.content_type, event_id=event_id)
        return Response(None, answer, event_id=event_id)

    def member(event: Any, answer: Any) -> Response:
        if isinstance(answer, Exception):
            status = 400 if isinstance(answer, ValueError) else 500
            return Response(None, str(answer) or type(answer).__name__, status_code=status, event_id=event.id)
        return response(answer, event.id)

    def handle(event: Any) -> Any:
        if isinstance(event, list):
            return [member(each, answer) for each, answer in zip(event, model.answer_all(event), strict=True)]
        if event.method == "GET" and not event.body:
            return response(model.about())
        return response(model.answer(event))

    return handle
