from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgehost.runtimes.onnx.settings import Input
from edgehost.runtimes.onnx.tensors import InputError, TensorType, decode, decode_npy, decode_raw, fit, scaled, transposed

DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"]
ANY_ARRAY = st.sampled_from(DTYPES).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(max_side=5)))


def target(dtype: str, *shape: int | None) -> TensorType:
    return TensorType("x", np.dtype(dtype), shape)


def saved(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


@given(ANY_ARRAY)
def test_raw_bytes_come_back_as_the_array_they_were(array: Any) -> None:
    again = decode_raw(array.tobytes(), array.dtype.name, array.shape)
    assert again.dtype == array.dtype and again.tobytes() == array.tobytes() and again.shape == array.shape


@given(ANY_ARRAY, st.booleans())
def test_npy_files_come_back_as_the_array_they_were(array: Any, fortran: bool) -> None:
    again = decode_npy(saved(np.asfortranarray(array) if fortran else array))
    assert again.dtype == array.dtype and again.tobytes() == array.tobytes() and again.shape == array.shape


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=200).map(lambda data: b"\x93NUMPY\x01\x00v\x00" + data)))
def test_no_bytes_break_the_npy_reader(data: bytes) -> None:
    try:
        decode_npy(data)
    except InputError:
        pass


@given(st.binary(min_size=1, max_size=64), st.integers(10, 127))
def test_a_changed_byte_in_a_npy_header_never_reads_past_the_file(junk: bytes, place: int) -> None:
    data = bytearray(saved(np.arange(6, dtype=np.float32)))
    data[place : place + len(junk)] = junk
    try:
        assert decode_npy(bytes(data)).nbytes <= len(data)
    except InputError:
        pass


def test_a_npy_header_that_claims_terabytes_is_refused_before_anything_is_allocated() -> None:
    header = saved(np.zeros(4, np.float32)).replace(b"(4,)", b"(9999999999999,)")[:128]
    with pytest.raises(InputError, match=r"holds .* bytes of numbers; its header"):
        decode_npy(header + b"\0" * 16)


@pytest.mark.parametrize("array", [np.array([{"a": 1}], dtype=object), np.array(["text"]), np.zeros(2, "datetime64[s]")])
def test_npy_files_of_anything_but_numbers_are_refused(array: Any) -> None:
    with pytest.raises(InputError, match="send numbers or booleans"):
        decode_npy(saved(array, allow_pickle=True))


@pytest.mark.parametrize(
    ("size", "shape", "message"),
    [
        (6, (2, 2), r"the body has 6 bytes; int16\[2, 2\] takes 8"),
        (9_000_000, (2, 2), r"has 9000000 bytes"),
        (0, (4,), r"takes 8"),
        (7, (), r"takes a multiple of 2"),
        (6, (2, -1), r"takes a multiple of 4"),
        (6, (0, -1), r"takes a multiple of 0"),
    ],
)
def test_a_raw_body_of_the_wrong_size_says_which_is_right(size: int, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_raw(bytes(size), "int16", shape)


def test_a_raw_shape_may_leave_one_size_open() -> None:
    assert decode_raw(bytes(24), "int16", (2, -1)).shape == (2, 6)
    assert decode_raw(memoryview(bytes(6)), "int16", ()).shape == (3,)


@pytest.mark.parametrize(
    ("value", "wanted", "expected"),
    [
        ([[1, 2]], target("float32", None, 2), [[1.0, 2.0]]),
        ([1, 2], target("float32", None, 2), [[1.0, 2.0]]),
        ([1, 2], target("float32", 1, 2), [[1.0, 2.0]]),
        (7, target("int64"), 7),
        ([1, 0], target("uint8", 2), [1, 0]),
        ([True], target("float32", 1), [1.0]),
        (np.arange(3, dtype=">f8"), target("float32", 3), [0.0, 1.0, 2.0]),
        (["a", "b"], target("object", None), ["a", "b"]),
        ([], target("float32", None), []),
    ],
)
def test_values_that_fit_become_the_tensor(value: Any, wanted: TensorType, expected: Any) -> None:
    tensor = fit(value, wanted)
    assert tensor.dtype == wanted.dtype
    assert tensor.tolist() == expected
    assert tensor.flags.c_contiguous


@pytest.mark.parametrize(
    ("value", "wanted", "message"),
    [
        ([[1, 2, 3]], target("float32", None, 2), r"shape \[1, 3\]; the model takes float32\[\?, 2\]"),
        ([1, 2], target("float32", 3, 2), r"shape \[2\]"),
        ([[1], [1, 2]], target("float32", None, None), "not a regular nested list"),
        ([1.5], target("int64", 1), r"holds float64; the model takes int64\[1\]"),
        ([300], target("uint8", 1), "a number that uint8 can't hold"),
        ([-1], target("uint64", 1), "a number that uint64 can't hold"),
        ([2**70], target("float32", 1), "text or null"),
        (["1.5"], target("float32", 1), "text or null"),
        ([None], target("float32", 1), "text or null"),
        ([{"a": 1}], target("float32", 1), "text or null"),
        ([1], target("bool", 1), "holds int64"),
        ([1], target("object", 1), "holds more than text"),
        (np.array([1 + 2j]), target("float32", 1), "holds complex128"),
    ],
)
def test_values_that_do_not_fit_say_what_came_and_what_is_taken(value: Any, wanted: TensorType, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(value, wanted)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=12,
    ),
    st.sampled_from(["float32", "int64", "uint8", "bool"]),
)
def test_whatever_json_holds_becomes_the_right_tensor_or_an_input_error(value: Any, dtype: str) -> None:
    try:
        tensor = fit(value, target(dtype, None, 2))
    except InputError:
        return
    assert tensor.dtype == dtype and tensor.shape[1] == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is no JSON"),
        (b"\xff\xfe", "the body is no JSON"),
        (b"[" * 100_000, "the body is no JSON"),
        (b"[" * 200 + b"]" * 200, "regular nested list|text or null"),
        (b'{"y": [1, 2]}', "'y' is not an input to send; send 'x'"),
        (b"{}", "the input 'x' is missing"),
        (b"[" + b'"aaaaaaaa",' * 20_000 + b'"a"]', "text or null"),
    ],
)
def test_a_bad_json_body_is_told_in_one_short_line(body: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        decode(body, Input(), "x", {"x": target("float32", None, 2)})
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_json_that_was_parsed_on_the_way_is_taken_as_it_is() -> None:
    wanted = {"x": target("float32", 2), "n": target("int64")}
    tensors = decode({"x": [1, 2], "n": 3}, Input(), "", wanted)
    assert tensors["x"].tolist() == [1, 2] and tensors["n"].tolist() == 3


def test_a_bare_list_for_a_model_with_several_inputs_names_them() -> None:
    with pytest.raises(InputError, match=r"several inputs; send an object with 'x', 'n'"):
        decode(b"[1]", Input(), "", {"x": target("float32", 1), "n": target("int64")})


def test_parsed_json_for_a_raw_input_says_which_content_type_to_send() -> None:
    with pytest.raises(InputError, match="application/octet-stream"):
        decode([1, 2], Input(decode="raw"), "x", {"x": target("float32", None)})


def test_an_image_is_scaled_by_channel_and_turned_into_the_order_the_model_wants() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    how = Input(decode="raw", dtype="uint8", shape=(2, 3, 3), mean=(1.0, 2.0, 3.0), scale=(1.0, 0.5, 0.25), transpose=(2, 0, 1))
    tensor = decode(image.tobytes(), how, "x", {"x": target("float32", None, 3, 2, 3)})["x"]
    assert tensor.shape == (1, 3, 2, 3)
    for channel, (mean, scale) in enumerate([(1, 1), (2, 0.5), (3, 0.25)]):
        assert np.array_equal(tensor[0, channel], (image[..., channel].astype(np.float32) - mean) * scale)


@pytest.mark.parametrize(("mean", "scale"), [((1.0, 2.0), 1.0), (0.0, (1.0, 2.0, 3.0, 4.0))])
def test_a_mean_that_does_not_match_the_channels_is_told(mean: Any, scale: Any) -> None:
    with pytest.raises(InputError, match=r"mean or scale has"):
        scaled(np.zeros((4, 3), np.uint8), mean, scale)


def test_a_transpose_that_is_no_order_of_the_axes_is_told() -> None:
    with pytest.raises(InputError, match=r"transpose \[0, 2\] is not an order of the 2 axes"):
        transposed(np.zeros((2, 2)), (0, 2))
