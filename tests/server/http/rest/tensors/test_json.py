"""The data of inputs in JSON: what json reads is read as json does, and all else refused."""

import base64
import contextlib
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from resonnx_server.errors import InvalidInput, ServerError, UnreadableMessage
from resonnx_server.http.rest.tensors import json_cut, json_data
from resonnx_server.http.rest.tensors.json_cut import cut_json
from resonnx_server.http.rest.tensors.json_data import JsonData
from resonnx_server.protocol.pieces import at_once

DTYPES = {name: np.dtype(name) for name in ("?", "u1", "i1", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")}


@pytest.fixture(autouse=True, params=["small", "large"])
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of their own size, and of few bytes."""
    if request.param == "small":
        monkeypatch.setattr(json_data, "_PIECE_BYTES", 48)
        monkeypatch.setattr(json_data, "_STRING_PIECE_BYTES", 4)
        monkeypatch.setattr(json_cut, "_PIECE_BYTES", 3)
        monkeypatch.setattr(json_cut, "_STRING_PIECE_BYTES", 2)


def _read(text: str, shape: tuple[int, ...], dtype: Any, *, are_files: bool = False) -> np.ndarray:
    body = text.encode()
    return at_once(JsonData(body, (0, len(body)), "data").read(shape, np.dtype(dtype), are_files=are_files))


def _plain(array: np.ndarray) -> Any:
    return array.tolist()


@given(st.data(), st.sampled_from(sorted(DTYPES)), st.sampled_from([None, 0, 1]), st.booleans())
def test_numbers_keep_their_bits(data: st.DataObject, name: str, indent: int | None, flat: bool) -> None:
    dtype = DTYPES[name]
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    array = data.draw(arrays.arrays(dtype, shape))
    text = json.dumps(_plain(array.ravel() if flat or not shape else array), indent=indent)
    read = _read(text, shape, dtype)
    assert read.dtype == dtype
    if dtype.kind == "f":
        # NaN has no bits in JSON.
        np.testing.assert_array_equal(read, array)
        assert np.array_equal(np.signbit(read[~np.isnan(array)]), np.signbit(array[~np.isnan(array)]))
    else:
        assert read.tobytes() == array.tobytes()


# Surrogates have no UTF-8.
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
_CONTROL = re.compile("[\\x00-\\x1f]")


@given(st.lists(_TEXTS, max_size=12), st.booleans())
def test_strings_are_utf8(strings: list[str], ascii_only: bool) -> None:
    text = json.dumps(strings, ensure_ascii=ascii_only)
    are_short = max(map(len, json.dumps(strings).split(",")), default=0) <= json_data._STRING_PIECE_BYTES
    if are_short or not ("\\" in text or _CONTROL.search("".join(strings))):
        assert _read(text, (len(strings),), object).tolist() == [each.encode() for each in strings]
    else:
        # Escapes of long strings would have to be found at once.
        with contextlib.suppress(InvalidInput):
            assert _read(text, (len(strings),), object).tolist() == [each.encode() for each in strings]


@given(st.lists(st.binary(max_size=20), max_size=12), st.booleans())
def test_bytes_are_base64(contents: list[bytes], escaped: bool) -> None:
    text = json.dumps([base64.b64encode(each).decode() for each in contents])
    text = text.replace("/", "\\/") if escaped else text
    assert _read(text, (len(contents),), object, are_files=True).tolist() == contents


_SYMBOLS = ["[", "]", ",", " ", "1", "-2.5e1", '"a"', "null", "true", "{", "}", ":", "\\", '"', "NaN", "1e999", "\n"]


@given(st.lists(st.sampled_from(_SYMBOLS), max_size=14), st.integers(0, 4), st.sampled_from(["<f8", "u1", "O", "?"]))
def test_what_json_refuses_is_refused(symbols: list[str], count: int, dtype: str) -> None:
    text = "[" + "".join(symbols) + "]"
    body = f'{{"inputs": [{{"data": {text}}}]}}'.encode()
    try:
        cut = at_once(cut_json(body, len(body)))
        read = at_once(JsonData(body, cut.data[0], "data").read((count,), np.dtype(dtype), are_files=False))
    except ServerError:
        return
    found = json.loads(text)
    flat: list[Any] = []
    while found:
        first = found.pop(0)
        if isinstance(first, list):
            found = first + found
        else:
            flat.append(first)
    given_ = [each.decode() if isinstance(each, bytes) else each for each in read.tolist()]
    assert np.array_equal(np.array(given_, object), np.array(flat, object)) or str(given_) == str(flat)


@pytest.mark.parametrize(
    ("text", "shape", "dtype", "error"),
    [
        ("[1,2]", (3,), "u1", "5 bytes cannot hold|2 values; the shape has 3"),
        ("[1,2,3]", (2,), "u1", "more than 2 values"),
        ("[1]", (0,), "u1", "the shape has none"),
        ("[300]", (1,), "u1", "not within 0..255"),
        ("[1e39]", (1,), "<f4", "not within"),
        ("[1e5]", (1,), "<f2", "not within"),
        ("[1" + "0" * 5000 + "]", (1,), "<f4", "not an array|longer than"),
        ("[1" + "0" * 400 + "]", (1,), "<f4", "too large|longer than"),
        ("[[1],[]]", (1,), "u1", "brackets"),
        ('["x"]', (1,), "<f4", "must be numbers"),
        ("[true]", (1,), "u1", "whole numbers"),
        ("[2]", (1,), "?", "true or false"),
        ("[1]", (1,), "O", "strings"),
        ('["a" "b"]', (2,), "O", "array of strings"),
        ('["\\ud800"]', (1,), "O", "not a JSON string of text|escapes"),
        ('["a","b"]', (1,), "O", "more than 1 strings"),
    ],
)
def test_data_that_does_not_fit(text: str, shape: tuple[int, ...], dtype: str, error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        _read(text, shape, dtype)


@pytest.mark.parametrize("text", ["A", "AA=A", "A A=", "AAAA=", "====", "AA==AA==", "é==="])
def test_what_is_no_base64(text: str) -> None:
    with pytest.raises(InvalidInput, match="not base64"):
        _read(json.dumps([text], ensure_ascii=False), (1,), object, are_files=True)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("data inputs", max_size=5), inner, max_size=3),
    max_leaves=6,
)
_ARRAYS = st.lists(st.recursive(st.integers() | st.text('a"\\]', max_size=4), lambda it: st.lists(it, max_size=3)))
_INPUTS = st.lists(st.dictionaries(st.sampled_from(["name", "data", "x"]), _VALUES, max_size=3))


@given(_INPUTS, st.lists(_ARRAYS, max_size=3), _VALUES, st.sampled_from([None, 1]))
def test_only_the_data_of_inputs_is_cut_out(before: list[Any], data: list[Any], more: Any, indent: int | None) -> None:
    inputs: list[Any] = [{key: value for key, value in each.items() if key != "data"} for each in before]
    inputs += [{"name": "x", "data": each, "after": more} for each in data]
    request = {"a": more, "inputs": inputs, "outputs": [{"data": more}], "data": more}
    text = json.dumps(request, indent=indent).encode()
    cut = at_once(cut_json(text + b"binary", len(text)))
    found = [json.loads(text[start:end]) for start, end in cut.data]
    assert found == data
    for i, each in enumerate(data):
        assert cut.head["inputs"][len(before) + i].pop("data") == i
        assert inputs[len(before) + i].pop("data") == each
    assert cut.head == request


@given(st.lists(st.sampled_from(['{"inputs":[', '{"data":', "[1,", "]", "}", ",", '"', "\\", "1", " ", "{", "["])))
def test_requests_that_are_no_json_are_refused(symbols: list[str]) -> None:
    text = "".join(symbols).encode()
    try:
        cut = at_once(cut_json(text, len(text)))
    except (InvalidInput, UnreadableMessage):
        return
    if not cut.data:
        assert cut.head == json.loads(text)
