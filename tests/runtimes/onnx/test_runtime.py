from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehost import plugin
from edgehost.errors import ManifestError, StartError
from edgehost.runtimes.onnx import OnnxRuntime
from edgehost.runtimes.onnx.session import of_board, operators, verdict

pytestmark = pytest.mark.needs("module:onnxruntime")

COPY = ([("Identity", "x", "y")], {"x": ("float", ["n", "width"])}, {"y": ("float", ["n", "width"])})
SUM = (
    [("Add", "x s", "y"), ("Identity", "y", "t")],
    {"x": ("float", ["n", 2]), "s": ("float", ["n", 2])},
    {"y": ("float", ["n", 2]), "t": ("float", ["n", 2])},
)
CARRIED = {"carry": {"t": "s"}}


def test_the_plugin_is_found_by_its_name_and_imports_no_onnxruntime() -> None:
    code = (
        "import sys; from edgehost import plugin; runtime = plugin.load('runtime', 'onnx'); "
        "print(runtime.__name__, sorted({'numpy', 'onnxruntime'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.split(maxsplit=1) == ["OnnxRuntime", "[]\n"]
    assert plugin.load("runtime", "onnx") is OnnxRuntime


def test_a_model_of_the_wheel_answers_json(load: Any, wheel_models: Path) -> None:
    function = load(wheel_models, model="mul_1.onnx")
    assert function(b"[[1, 2], [3, 4], [5, 6]]") == {"Y": [[1, 4], [9, 16], [25, 36]]}
    assert function({"X": [[1, 2], [3, 4], [5, 6]]})["Y"][2] == [25, 36]
    assert function.warnings == []


def test_a_model_of_the_wheel_answers_raw_and_npy(load: Any, wheel_models: Path) -> None:
    numbers = np.linspace(-2, 2, 60, dtype=np.float32).reshape(3, 4, 5)
    expected = 1 / (1 + np.exp(-numbers))
    raw = load(wheel_models, model="sigmoid.onnx", input={"decode": "raw", "shape": [3, 4, 5]}, output={"encode": "raw"})
    answer = raw.response(numbers.tobytes())
    assert answer.headers["X-Tensor-Shape"] == "3,4,5" and answer.content_type == "application/octet-stream"
    assert np.allclose(np.frombuffer(answer.body, np.float32).reshape(3, 4, 5), expected)
    npy = load(wheel_models, model="sigmoid.onnx", input={"decode": "npy"}, output={"encode": "npy"})
    stream = io.BytesIO()
    np.save(stream, numbers)
    assert np.allclose(np.load(io.BytesIO(npy(stream.getvalue()))), expected)


def test_a_classifier_of_the_wheel_answers_its_best_labels(load: Any, wheel_models: Path) -> None:
    output = {"encode": "labels", "names": ["probabilities"], "labels": ["setosa", "versicolor", "virginica"], "top_k": 2}
    rows = load(wheel_models, model="logreg_iris.onnx", output=output)(b"[[1, 2], [3, 4], [5, 6]]")["labels"]
    assert [len(row) for row in rows] == [2, 2, 2]
    assert all(row[0]["score"] >= row[1]["score"] and row[0]["label"] == "setosa" for row in rows)
    as_json = load(wheel_models, model="logreg_iris.onnx")(b"[[1, 2], [3, 4], [5, 6]]")
    assert as_json["label"] == [0, 0, 0] and sorted(as_json["probabilities"][0]) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[[1, 2]]", r"shape \[1, 2\]; the model takes float32\[3, 2\]"),
        (b'["a"]', "holds text"),
        (b"\x00" * 5_000_000, "the body is no JSON"),
        (b"[" + b"1," * 500_000 + b"1]", r"shape \[500001\]"),
    ],
)
def test_a_bad_event_raises_what_was_expected_and_the_next_one_is_answered(
    load: Any, wheel_models: Path, body: bytes, message: str
) -> None:
    function = load(wheel_models, model="mul_1.onnx")
    with pytest.raises(ValueError, match=message):
        function(body)
    assert function(b"[[1, 2], [3, 4], [5, 6]]")["Y"][0] == [1, 4]


def test_a_batch_is_answered_by_event_id_with_a_400_for_the_bad_member(load: Any, write_model: Any) -> None:
    good, bad, also_good = load(model=write_model(*COPY)).batch(b"[1, 2]", b"{", b"[3, 4]")
    assert [good.event_id, bad.event_id, also_good.event_id] == ["0", "1", "2"]
    assert [good.status_code, bad.status_code, also_good.status_code] == [200, 400, 200]
    assert good.body == {"y": [[1, 2]]} and also_good.body == {"y": [[3, 4]]} and "no JSON" in bad.body


def test_a_get_without_a_body_asks_what_the_model_takes(load: Any, wheel_models: Path) -> None:
    as_json = load(wheel_models, model="mul_1.onnx")(b"", method="GET")
    assert as_json == {"model": "mul_1.onnx", "decode": "json", "takes": {"X": "float32[3, 2]"}, "encode": "json", "gives": ["Y"]}
    raw = load(wheel_models, model="mul_1.onnx", input={"decode": "raw", "dtype": "int16", "shape": [3, 2]})
    assert raw(b"", method="GET")["takes"] == {"X": "int16[3, 2]"}


def test_state_moves_from_event_to_event(load: Any, write_model: Any) -> None:
    function = load(model=write_model(*SUM), state=CARRIED)
    assert [function([1, 2])["y"], function([1, 2])["y"], function([0, 1])["y"]] == [[[1, 2]], [[2, 4]], [[2, 5]]]


def test_a_failed_event_leaves_the_state_as_it_was(load: Any, write_model: Any) -> None:
    function = load(model=write_model(*SUM), state=CARRIED)
    function([1, 2])
    with pytest.raises(ValueError, match="the model takes"):
        function([1, 2, 3])
    with pytest.raises(ValueError, match=r"turns the state 's' from shape \[1, 2\] into \[3, 2\]"):
        function([[1, 2]] * 3)
    assert function([0, 0])["y"] == [[1, 2]]


@pytest.mark.parametrize(
    ("key", "first", "second"),
    [("path", {"path": "a"}, {"path": "b"}), ("header:Device", {"headers": {"device": "a"}}, {"headers": {"DEVICE": "b"}})],
)
def test_each_key_has_its_own_state(load: Any, write_model: Any, key: str, first: Any, second: Any) -> None:
    function = load(model=write_model(*SUM), state={**CARRIED, "key": key})
    assert function([1, 1], **first)["y"] == [[1, 1]]
    assert function([5, 5], **second)["y"] == [[5, 5]]
    assert function([1, 1], **first)["y"] == [[2, 2]]


def test_no_more_keys_are_kept_than_allowed_and_the_one_unused_longest_goes(load: Any, write_model: Any) -> None:
    function = load(model=write_model(*SUM), state={**CARRIED, "key": "path", "max_keys": 2})
    for path in ("a", "b", "a", "c"):
        function([1, 1], path=path)
    assert function([0, 0], path="a")["y"] == [[2, 2]]
    assert function([0, 0], path="b")["y"] == [[0, 0]]


def test_the_reset_header_starts_from_zeros(load: Any, write_model: Any) -> None:
    function = load(model=write_model(*SUM), state={**CARRIED, "reset_header": "Restart"})
    function([1, 1])
    assert function([2, 2], headers={"restart": ""})["y"] == [[2, 2]]
    assert function([1, 1])["y"] == [[3, 3]]


def test_overlap_puts_the_end_of_the_event_before_in_front(load: Any, write_model: Any) -> None:
    raw = {"decode": "raw", "dtype": "int16", "shape": [1, 3], "scale": 0.5}
    function = load(model=write_model(*COPY), input=raw, state={"overlap": 2})
    assert function(np.array([2, 4, 6], "<i2").tobytes())["y"] == [[0, 0, 1, 2, 3]]
    assert function(np.array([8, 10, 12], "<i2").tobytes())["y"] == [[2, 3, 4, 5, 6]]


def test_constants_are_fed_to_every_run(load: Any, write_model: Any) -> None:
    function = load(model=write_model(*SUM), constants={"s": [10, 20]}, output={"names": ["y"]})
    assert function([1, 2]) == {"y": [[11, 22]]}


def test_text_goes_in_and_out(load: Any, write_model: Any) -> None:
    model = write_model([("Identity", "x", "y")], {"x": ("string", ["n"])}, {"y": ("string", ["n"])})
    assert load(model=model)(["grün", ""]) == {"y": ["grün", ""]}


def test_an_input_of_a_type_numpy_lacks_fails_the_start(load: Any, write_model: Any) -> None:
    model = write_model([("Identity", "x", "y")], {"x": ("bfloat16", ["n"])}, {"y": ("bfloat16", ["n"])})
    with pytest.raises(StartError, match="the input 'x' is of a type no event can hold"):
        load(model=model)


@pytest.mark.parametrize("garbage", [b"not a model", b"\x08\x08\x3a\xff", bytes(range(256)) * 400])
def test_a_file_that_is_no_model_fails_the_start_with_its_name(load: Any, tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(garbage)
    with pytest.raises(StartError, match=r"the model model\.onnx can't be loaded: ."):
        load(model="model.onnx")


def test_a_truncated_model_fails_the_start(load: Any, write_model: Any, tmp_path: Path) -> None:
    path = tmp_path / write_model(*SUM)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(StartError, match=r"model\.onnx"):
        load(model="model.onnx")


def test_labels_that_do_not_match_the_model_fail_the_start(load: Any, write_model: Any) -> None:
    with pytest.raises(StartError, match="labels has 1 names, the model scores 2 classes"):
        load(model=write_model(*SUM), state=CARRIED, output={"encode": "labels", "labels": ["only"]})


MATMUL = ([("MatMul", "x w", "y")], {"x": ("float", ["n", "k"]), "w": ("float", [3, 2])}, {"y": ("float", ["n", 2])})
WEIGHTS = {"w": [[1, 0], [0, 1], [1, 1]]}


def test_a_rehearsal_that_fails_on_guessed_shapes_warns_and_says_what_to_do(load: Any, write_model: Any) -> None:
    function = load(model=write_model(*MATMUL), constants=WEIGHTS)
    assert any("could not be tried at start" in warning and "[onnx.shapes]" in warning for warning in function.warnings)
    assert function([1, 2, 3]) == {"y": [[4, 5]]}


def test_a_rehearsal_that_fails_on_guessed_shapes_fails_a_strict_start(load: Any, write_model: Any) -> None:
    with pytest.raises(StartError, match="could not be tried at start"):
        load(model=write_model(*MATMUL), constants=WEIGHTS, strict_providers=True)


def test_a_rehearsal_with_the_shape_told_is_silent_when_right_and_fatal_when_wrong(load: Any, write_model: Any) -> None:
    assert load(model=write_model(*MATMUL), constants=WEIGHTS, shapes={"x": [1, 3]}).warnings == []
    with pytest.raises(StartError, match="fails on zeros of its own shapes"):
        load(model="model.onnx", constants=WEIGHTS, shapes={"x": [1, 4]})


ABSENT = "NoSuchExecutionProvider"


def test_a_provider_that_is_not_here_is_told_and_the_cpu_answers(load: Any, wheel_models: Path) -> None:
    function = load(wheel_models, model="mul_1.onnx", providers=[ABSENT, "CPUExecutionProvider"])
    assert len(function.warnings) == 1
    for part in (ABSENT, "ran on CPUExecutionProvider (1 operators)", "install the build for your board"):
        assert part in function.warnings[0]
    assert function(b"[[1, 2], [3, 4], [5, 6]]")["Y"][0] == [1, 4]


def test_strict_providers_fail_the_start_instead(load: Any, wheel_models: Path) -> None:
    with pytest.raises(StartError, match=rf"asks for {ABSENT} first.*strict_providers"):
        load(wheel_models, model="mul_1.onnx", providers=[ABSENT], strict_providers=True)


def test_a_provider_that_is_registered_but_runs_no_operator_is_found_out(load: Any, wheel_models: Path) -> None:
    import onnxruntime

    provider = "AzureExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime is built without {provider}, the one provider that never runs an operator")
    with pytest.raises(StartError, match=r"compiled in but took no operator"):
        load(wheel_models, model="mul_1.onnx", providers=[provider], strict_providers=True)


def test_the_cpu_asked_for_is_proven_without_a_word(load: Any, wheel_models: Path) -> None:
    assert load(wheel_models, model="mul_1.onnx", providers=["CPUExecutionProvider"], strict_providers=True).warnings == []


@pytest.mark.parametrize("board", [(ABSENT, "CPUExecutionProvider"), (ABSENT,), ()])
def test_auto_takes_what_is_here_of_the_boards_order(load: Any, wheel_models: Path, board: tuple[str, ...]) -> None:
    function = load(wheel_models, board, model="mul_1.onnx", providers="auto", strict_providers=True)
    assert function.warnings == []
    assert function(b"[[1, 2], [3, 4], [5, 6]]")["Y"][0] == [1, 4]


def test_auto_keeps_the_boards_order(load: Any, wheel_models: Path) -> None:
    import onnxruntime

    last_first = tuple(reversed(onnxruntime.get_available_providers()))
    assert of_board(last_first) == last_first


def test_the_proof_counts_the_operators_of_a_profile() -> None:
    profile = b"""[{"cat": "Session", "name": "model_loading", "args": {}},
        {"cat": "Node", "name": "a_fence_before", "args": {"op_name": "Mul"}},
        {"cat": "Node", "name": "a_kernel_time", "args": {"op_name": "Mul", "provider": "CUDAExecutionProvider"}},
        {"cat": "Node", "name": "b_kernel_time", "args": {"op_name": "Top", "provider": "CPUExecutionProvider"}}]"""
    nodes = operators(profile)
    assert nodes == {"CUDAExecutionProvider": 1, "CPUExecutionProvider": 1}
    assert verdict("CUDAExecutionProvider", ["CUDAExecutionProvider"], nodes) == ""
    assert "took no operator" in verdict("CUDAExecutionProvider", ["CUDAExecutionProvider"], {"CPUExecutionProvider": 2})


@pytest.mark.parametrize(
    ("session", "threads"), [({}, 0), ({"intra_op_threads": 3}, 2)], ids=["one thread is the default", "three when asked"]
)
def test_a_session_starts_no_more_threads_than_told(wheel_models: Path, session: dict[str, int], threads: int) -> None:
    code = f"""
import msgspec, os, pathlib
from edgehost.runtimes.onnx import OnnxRuntime, Settings
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy, onnxruntime
from edgehost.runtimes.onnx.session import open_session
count = lambda: len(os.listdir("/proc/self/task"))
settings = msgspec.convert({{"model": "mul_1.onnx", "session": {session!r}}}, Settings)
before = count()
session = open_session(pathlib.Path({str(wheel_models)!r}) / "mul_1.onnx", settings, pathlib.Path("."))
print(count() - before, flush=True)
os._exit(0)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert int(told.stdout) == threads


@pytest.mark.parametrize(
    ("handler", "table", "message"),
    [
        ("", {"model": "gone.onnx"}, r"\[onnx\].model: no file 'gone.onnx' in .*; put it there"),
        ("", {"model": "gone.onnx", "model_source": "run tools/demo once"}, r"no file 'gone.onnx' in .*; run tools/demo once"),
        ("", {"model": "../model.onnx"}, r"\[onnx\].model: '../model.onnx' is outside"),
        ("", {"model": "/etc/passwd"}, r"\[onnx\].model: '/etc/passwd' is outside"),
        ("", {"model": "empty.onnx"}, r"empty.onnx is empty"),
        ("", {"model": "folder"}, r"no file 'folder'"),
        ("", {"model": "ok.onnx", "output": {"labels": "gone.txt"}}, r"\[onnx\].output.labels: no file 'gone.txt'"),
        ("", {"model": "ok.onnx", "providers": []}, r"\[onnx\].providers: empty"),
        ("", {"model": "ok.onnx", "input": {"decode": "raw", "shape": [-1, -1]}}, r"\[onnx.input\].shape: .*use -1 once"),
        ("", {"model": "ok.onnx", "input": {"shape": [1]}}, r"\[onnx.input\].shape: only decode = \"raw\""),
        ("", {"model": "ok.onnx", "state": {"key": "topic"}}, r"\[onnx.state\].key: 'topic' is no key"),
        ("", {"model": "ok.onnx", "state": {"key": "header:"}}, r"\[onnx.state\].key"),
        ("", {"model": "ok.onnx", "constants": {"s": 1}, "state": CARRIED}, r"\[onnx.constants\].s: is state too"),
        ("main:handler", {"model": "ok.onnx"}, r"handler: 'main:handler' is not used"),
    ],
)
def test_check_tells_what_can_be_seen_without_a_worker(tmp_path: Path, handler: str, table: dict[str, Any], message: str) -> None:
    import msgspec

    (tmp_path / "ok.onnx").write_bytes(b"x")
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ManifestError, match=message):
        OnnxRuntime.check(tmp_path, handler, msgspec.convert(table, OnnxRuntime.Settings))


def test_check_wants_the_table(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"needs this table"):
        OnnxRuntime.check(tmp_path, "", None)
