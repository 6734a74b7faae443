"""From a model's outputs to a function's answer: an Answer, or plain values for JSON. Pure; knows nothing of onnxruntime."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgehost.runtimes.onnx.settings import Output
from edgehost.runtimes.onnx.tensors import Array

Value = Any
"""What onnxruntime gives for one output: an array, or for sequence and map types lists and dicts of Python values."""


@dataclass(frozen=True)
class Answer:
    """A body that is not JSON, with what a receiver needs to read it."""

    body: bytes
    content_type: str
    headers: dict[str, str]


def as_json(outputs: Mapping[str, Value]) -> dict[str, Any]:
    """Every output by name as nested lists."""
    return {name: _plain(value) for name, value in outputs.items()}


def as_raw(name: str, value: Value) -> Answer:
    """Little-endian numbers; the headers say type and shape."""
    array = _array(name, value, "raw")
    body = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    shape = ",".join(str(size) for size in array.shape)
    headers = {"X-Tensor-Name": name, "X-Tensor-Dtype": array.dtype.name, "X-Tensor-Shape": shape}
    return Answer(body, "application/octet-stream", headers)


def as_npy(name: str, value: Value) -> Answer:
    """What numpy.load reads."""
    stream = io.BytesIO()
    np.save(stream, _array(name, value, "npy"), allow_pickle=False)
    return Answer(stream.getvalue(), "application/x-npy", {"X-Tensor-Name": name})


def as_labels(value: Value, labels: Sequence[str], how: Output) -> dict[str, Any]:
    """`{"labels": [{"label", "score"}, ...]}`, best first; with more than one row in the output, a list of such lists.

    `value` is an array of scores [rows, classes] or [classes], or what scikit-learn's classifiers give: a list of {class: score}.
    """
    rows = [_ranked(names, scores, how) for names, scores in _rows(value, labels)]
    return {"labels": rows[0] if len(rows) == 1 else rows}


def read_labels(labels: str | Sequence[str], folder: Path) -> tuple[str, ...]:
    """The class names in order: the list itself, or the lines of that file in the bundle, empty ones at its end left out."""
    if isinstance(labels, str):
        return tuple((folder / labels).read_text(encoding="utf-8").rstrip().splitlines())
    return tuple(labels)


def softmax(scores: Array) -> Array:
    """Probabilities of one row of logits; shifted by the largest one, so that none overflows."""
    powers = np.exp(scores - scores.max())
    result: Array = powers / powers.sum()
    return result


def _rows(value: Value, labels: Sequence[str]) -> list[tuple[Sequence[str], Array]]:
    if isinstance(value, list):
        return [(_class_names(list(row), labels), np.array(list(row.values()), np.float64)) for row in value]
    scores = np.atleast_2d(np.asarray(value, np.float64))
    scores = scores.reshape(-1, scores.shape[-1])
    names = labels or [str(number) for number in range(scores.shape[-1])]
    if len(names) != scores.shape[-1]:
        raise ValueError(f"[onnx.output].labels has {len(names)} names, the model scores {scores.shape[-1]} classes")
    return [(names, row) for row in scores]


def _class_names(classes: Sequence[int | str], labels: Sequence[str]) -> list[str]:
    known = range(len(labels))
    return [labels[each] if isinstance(each, int) and each in known else str(each) for each in classes]


def _ranked(names: Sequence[str], scores: Array, how: Output) -> list[dict[str, str | float]]:
    if how.softmax:
        scores = softmax(scores)
    # Stable, so that equal scores keep the model's order.
    order = np.argsort(-scores, kind="stable")[: how.top_k]
    ranked = [{"label": names[each], "score": round(float(scores[each]), 6)} for each in order]
    return [row for row in ranked if how.threshold is None or row["score"] >= how.threshold]


def _array(name: str, value: Value, encode: str) -> Array:
    if not isinstance(value, np.ndarray) or value.dtype == object:
        raise ValueError(f"the output {name!r} is no tensor of numbers; [onnx.output].encode {encode!r} can't hold it, json can")
    return value


def _plain(value: Value) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
