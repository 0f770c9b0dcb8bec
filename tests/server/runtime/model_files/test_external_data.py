"""External data of ONNX files: what is beside the file is read, once and whole; nothing else is."""

import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.bare import bare_file, bare_source
from resonnx_server.repository.bare.bare_source import read_folder
from resonnx_server.runtime import wire
from resonnx_server.runtime.model_files import external_data
from resonnx_server.runtime.model_files.external_data import with_external_data
from resonnx_server.runtime.model_files.manifest import SUMS, sha256sums
from resonnx_server.runtime.session import CPU, Candidate, Session

from ...onnx_classifier import version

DATA = "model.onnx.data"
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def _model() -> onnx.ModelProto:
    """y = x @ w + c, where c is a constant of one of two branches."""

    def branch(name: str, value: float) -> onnx.GraphProto:
        constant = numpy_helper.from_array(np.full((1, 4), value, np.float32), "value")
        nodes = [helper.make_node("Constant", [], [name], value=constant)]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4])])

    weights = [
        numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "w"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("If", ["yes"], ["c"], then_branch=branch("a", 5), else_branch=branch("b", 7)),
        helper.make_node("Add", ["product", "c"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 3), ("y", 4)))
    graph = helper.make_graph(nodes, "external", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            found += [attribute.t] if attribute.HasField("t") else []
            found += _tensors(attribute.g) if attribute.HasField("g") else []
    return found


def _write(folder: Path, location: str = DATA, **changes: str) -> Path:
    """Write model.onnx with all its tensors in another file, and change the first reference; return that file."""
    model, data = _model(), b"unused"
    for tensor in _tensors(model.graph):
        entries = {"location": location, "offset": str(len(data)), "length": str(len(tensor.raw_data)), **changes}
        data += tensor.raw_data
        changes = {}
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / DATA).write_bytes(data)
    return folder / DATA


def _answer(content: bytes) -> np.ndarray:
    return Session(content, Candidate(CPU, pb.PRECISION_FP32), 1).run({"x": X})["y"]


def _refusal(folder: Path) -> str:
    with pytest.raises(ModelRefused) as refused:
        bare_file.load(version_in(folder))
    assert "\n" not in refused.value.message
    return refused.value.message


def version_in(folder: Path) -> object:
    loaded = version(threads=1)
    return SimpleNamespace(**{**vars(loaded), "folder": SimpleNamespace(name="m", version=1, path=folder)})


def test_tensors_of_graphs_branches_and_constants_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path)
    monkeypatch.chdir("/")
    content = read_folder(tmp_path).content
    assert not any(tensor.external_data for tensor in _tensors(onnx.load_model_from_string(content).graph))
    np.testing.assert_array_equal(_answer(content), X @ np.arange(12, dtype=np.float32).reshape(3, 4) + 5)


def test_a_file_in_a_folder_of_the_version_is_read(tmp_path: Path) -> None:
    data = _write(tmp_path, "data/all/weights.bin")
    (tmp_path / "data/all").mkdir(parents=True)
    data.rename(tmp_path / "data/all/weights.bin")
    assert _answer(read_folder(tmp_path).content).shape == (2, 4)


def test_the_working_directory_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ONNX Runtime would look."""
    _write(tmp_path).rename(tmp_path / "elsewhere")
    (tmp_path / "cwd").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "cwd" / DATA)
    monkeypatch.chdir(tmp_path / "cwd")
    assert f"'{DATA}' is missing: put that file into the version's folder" in _refusal(tmp_path)


OUTSIDE = "is not a path inside the version's folder"
REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "absolute": ({"location": "/etc/hostname"}, OUTSIDE),
    "above": ({"location": "../secret"}, OUTSIDE),
    "above, later": ({"location": "data/../../secret"}, OUTSIDE),
    "itself, spelt otherwise": ({"location": "./model.onnx"}, OUTSIDE),
    "no name": ({"location": ""}, OUTSIDE),
    "NUL": ({"location": "a\0b"}, OUTSIDE),
    "memory": ({"location": "*/_ORT_MEM_ADDR_/*"}, "is missing"),
    "itself": ({"location": "model.onnx"}, "external data refers to the file itself"),
    "missing": ({"location": "other"}, "'other' is missing"),
    "link": ({"location": "link"}, "is a link, or below one"),
    "link in a circle": ({"location": "circle"}, "is a link, or below one"),
    "below a link": ({"location": "folder/secret"}, "is a link, or below one"),
    "folder": ({"location": "plain"}, "is a folder, not a regular file"),
    "FIFO": ({"location": "fifo"}, "is a FIFO, not a regular file"),
    "range": ({"offset": "1000000"}, "a tensor is 48 bytes from 1000000 of 'model.onnx.data'"),
    "long range": ({"length": "1000000"}, "a tensor is 1000000 bytes from 6"),
    "negative": ({"offset": "-1"}, "external data has offset '-1', which is not a number of bytes"),
    "no number": ({"length": "9" * 30}, "which is not a number of bytes"),
    "short": ({"length": "4"}, "cannot load the graph"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_outside_or_wrong_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    changes, reason = REFUSED[kind]
    folder = tmp_path / "1"
    folder.mkdir()
    _write(folder, **changes)
    (tmp_path / "secret").write_bytes(b"0" * 1000)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "circle").symlink_to("circle")
    (folder / "folder").symlink_to(tmp_path)
    (folder / "plain").mkdir()
    os.mkfifo(folder / "fifo")
    message = _refusal(folder)
    assert reason in message
    assert len(message) < 500


def test_the_whole_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tensors may refer to the same bytes, and many files be small enough one by one."""
    size = _write(tmp_path).stat().st_size
    whole = len(read_folder(tmp_path).content)
    for most, reason in ((whole - 100, "with its external data"), (size - 1, f"has {size} bytes")):
        monkeypatch.setattr(external_data, "MAX_FILE_BYTES", most)
        message = _refusal(tmp_path)
        assert reason in message
        assert f"{most} are allowed" in message


def test_sums_cover_it(tmp_path: Path) -> None:
    data = _write(tmp_path)
    listed = {name: (tmp_path / name).read_bytes() for name in ("model.onnx", DATA)}
    (tmp_path / SUMS).write_bytes(sha256sums(listed))
    _, content, identity = read_folder(tmp_path)
    assert len(identity) == 64
    assert _answer(content).shape == (2, 4)
    data.write_bytes(bytes(len(listed[DATA])))
    assert f"'{DATA}' is damaged" in _refusal(tmp_path)
    (tmp_path / SUMS).write_bytes(sha256sums({"model.onnx": listed["model.onnx"]}))
    assert f"'{DATA}' is not listed" in _refusal(tmp_path)
    data.unlink()
    assert f"the external data '{DATA}' is not listed in {SUMS}" in _refusal(tmp_path)


def test_a_file_without_external_data_is_not_changed() -> None:
    content = _model().SerializeToString()
    assert with_external_data("model.onnx", content, lambda *_: b"") is content
    notes = _model()
    notes.doc_string = "the location of no file"
    assert with_external_data("model.onnx", notes.SerializeToString(), lambda *_: b"") == notes.SerializeToString()


def test_deep_and_long_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = b"location"
    for _ in range(40):
        # GraphProto.node, NodeProto.attribute, AttributeProto.g.
        for field in (6, 5, 1):
            deep = wire.opening(field, len(deep)) + deep
    deep = wire.opening(7, len(deep)) + deep
    with pytest.raises(ModelRefused, match="nests messages deeper than 100"):
        with_external_data("model.onnx", deep, lambda *_: b"")
    monkeypatch.setattr(external_data, "_MAX_FIELDS", 1000)
    long = helper.make_graph(
        [helper.make_node("Identity", [f"location{i}"], [f"{i}"]) for i in range(2000)], "g", [], []
    )
    with pytest.raises(ModelRefused, match="more than 1000 fields"):
        with_external_data("model.onnx", onnx.ModelProto(graph=long).SerializeToString(), lambda *_: b"")


def test_damaged_files_end_in_one_line(tmp_path: Path) -> None:
    """300 of them; those that still load have no reference left that ONNX Runtime would follow."""
    rng = random.Random(0)
    _write(tmp_path)
    content, read = (tmp_path / "model.onnx").read_bytes(), partial(bare_source._read_beside, tmp_path, "model.onnx")
    changes: list[Callable[[bytearray], object]] = [
        lambda data: data.__setitem__(rng.randrange(len(data)), rng.randrange(256)),
        lambda data: data.__delitem__(slice(rng.randrange(len(data)), None)),
        lambda data: data.__delitem__(rng.randrange(len(data))),
        lambda data: data.insert(rng.randrange(len(data)), rng.randrange(256)),
    ]
    refusals = []
    for number in range(300):
        damaged = bytearray(content)
        changes[number % len(changes)](damaged)
        try:
            whole = with_external_data("model.onnx", bytes(damaged), read)
            Session(whole, Candidate(CPU, pb.PRECISION_FP32), 1)
        except ModelRefused as error:
            refusals.append(error.message)
        else:
            assert not any(tensor.data_location for tensor in _tensors(onnx.load_model_from_string(whole).graph))
    assert len(refusals) > 100
    assert not any("\n" in message or len(message) > 600 for message in refusals)
