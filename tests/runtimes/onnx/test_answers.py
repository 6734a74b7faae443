from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgehost.runtimes.onnx.answers import as_json, as_labels, as_npy, as_raw, read_labels, softmax
from edgehost.runtimes.onnx.settings import Output

SCORES = arrays.arrays("float64", st.integers(1, 8), elements=st.floats(-1e6, 1e6))


@given(SCORES)
def test_softmax_gives_probabilities_in_the_order_of_the_scores(scores: Any) -> None:
    probabilities = softmax(scores)
    assert probabilities.sum() == pytest.approx(1.0)
    assert (probabilities >= 0).all()
    assert probabilities[scores.argmax()] == probabilities.max()


@given(SCORES, st.integers(1, 10))
def test_labels_come_best_first_and_at_most_top_k(scores: Any, top_k: int) -> None:
    ranked = as_labels(scores, (), Output(top_k=top_k))["labels"]
    assert len(ranked) == min(top_k, len(scores))
    assert [row["score"] for row in ranked] == sorted((round(each, 6) for each in scores), reverse=True)[:top_k]
    assert all(row["score"] == round(float(scores[int(row["label"])]), 6) for row in ranked)


def test_labels_below_the_threshold_are_left_out() -> None:
    how = Output(threshold=0.5)
    assert as_labels(np.array([[0.2, 0.8]]), ("no", "yes"), how) == {"labels": [{"label": "yes", "score": 0.8}]}
    assert as_labels(np.array([[0.2, 0.3]]), ("no", "yes"), how) == {"labels": []}


def test_several_rows_give_a_list_for_each() -> None:
    rows = as_labels(np.array([[1.0, 0.0], [0.0, 1.0]]), ("a", "b"), Output(top_k=1))["labels"]
    assert [[row["label"] for row in ranked] for ranked in rows] == [["a"], ["b"]]


def test_the_maps_of_scikit_learn_classifiers_are_ranked_by_their_own_keys() -> None:
    maps = [{0: 0.1, 1: 0.7, 2: 0.2}]
    ranked = as_labels(maps, ("setosa", "versicolor"), Output())["labels"]
    assert [row["label"] for row in ranked] == ["versicolor", "2", "setosa"]
    assert as_labels([{"cat": 0.9}], (), Output())["labels"] == [{"label": "cat", "score": 0.9}]


def test_a_number_of_labels_that_is_not_the_models_is_told() -> None:
    with pytest.raises(ValueError, match=r"labels has 2 names, the model scores 3 classes"):
        as_labels(np.zeros((1, 3)), ("a", "b"), Output())


def test_json_holds_arrays_and_maps_alike() -> None:
    outputs = {"a": np.array([[1, 2]]), "b": [{0: np.float32(0.5)}], "c": np.array(["x"], object)}
    assert as_json(outputs) == {"a": [[1, 2]], "b": [{"0": 0.5}], "c": ["x"]}


def test_a_raw_answer_says_in_its_headers_how_to_read_it() -> None:
    array = np.arange(6, dtype=">i2").reshape(2, 3)
    answer = as_raw("y", array)
    assert answer.content_type == "application/octet-stream"
    assert answer.headers == {"X-Tensor-Name": "y", "X-Tensor-Dtype": "int16", "X-Tensor-Shape": "2,3"}
    assert np.array_equal(np.frombuffer(answer.body, "<i2").reshape(2, 3), array)


def test_a_npy_answer_is_what_numpy_loads() -> None:
    array = np.linspace(0, 1, 6, dtype=np.float32).reshape(3, 2)
    assert np.array_equal(np.load(io.BytesIO(as_npy("y", array).body)), array)


@pytest.mark.parametrize("value", [[{0: 0.5}], np.array(["text"], object)])
@pytest.mark.parametrize("encode", [as_raw, as_npy])
def test_what_is_no_tensor_of_numbers_is_not_written_as_one(value: Any, encode: Any) -> None:
    with pytest.raises(ValueError, match=r"'y' is no tensor of numbers.*json can"):
        encode("y", value)


def test_labels_are_a_list_or_the_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\n\ndog\n\n", encoding="utf-8")
    assert read_labels("labels.txt", tmp_path) == ("cat", "", "dog")
    assert read_labels(("a", "b"), tmp_path) == ("a", "b")
    assert read_labels((), tmp_path) == ()
