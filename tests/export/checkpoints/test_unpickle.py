"""What the reader makes of files: the same as torch and pickle where they only hold data, Stubs of all else."""

import pickle
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from resonnx_export.checkpoints.files import load_checkpoint
from resonnx_export.checkpoints.pickles import Name, Stub
from resonnx_export.checkpoints.unpickle import read_objects, read_pickle, state_dict_of
from resonnx_export.errors import BadInput
from torch import Tensor, nn

BASE = torch.arange(24.0).reshape(2, 3, 4)
SHARED = torch.arange(6.0)
TENSORS: dict[str, Tensor] = {
    "contiguous": BASE,
    "transposed": BASE.transpose(0, 2),
    "a slice": BASE[1, 1:, ::2],
    "expanded": torch.ones(1, 3).expand(4, 3),
    "scalar": torch.tensor(3.0),
    "empty": torch.empty(0, 3),
    "shared": SHARED[:3],
    "the same storage": SHARED[3:],
    **{
        str(dtype): torch.tensor([0, 1, 1]).to(dtype)
        for dtype in (
            torch.float64,
            torch.float16,
            torch.bfloat16,
            torch.int64,
            torch.int32,
            torch.int16,
            torch.int8,
            torch.uint8,
            torch.bool,
        )
    },
}
FORMATS: dict[str, dict[str, Any]] = {
    "zip": {},
    "zip, protocol 4": {"pickle_protocol": 4},
    "legacy": {"_use_new_zipfile_serialization": False},
    "legacy, protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}


class Network(nn.Module):
    """Nested modules, a shared parameter, a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.Linear(4, 2)
        self.last.bias = nn.Parameter(torch.ones(2))
        self.tied = nn.Linear(4, 2)
        self.tied.weight = self.last.weight
        self.none = None
        self.register_buffer("scratch", torch.ones(1), persistent=False)
        self.register_buffer("kept", torch.ones(1))
        self.settings = {"size": 3}


class Words:
    """A vocabulary as the tutorials pickle theirs."""

    def __init__(self) -> None:
        self.word2idx = {"<pad>": 0, "caf\u00e9": 1}
        self.idx = 2


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_are_torchs(form: str, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "x.pt", **FORMATS[form])
    found = read_objects(tmp_path / "x.pt")
    assert isinstance(found, dict)
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert torch.equal(found[name], value), name
        assert (found[name].dtype, found[name].stride()) == (value.dtype, value.stride()), name
    assert found["shared"].untyped_storage().data_ptr() == found["the same storage"].untyped_storage().data_ptr()


@pytest.mark.parametrize("form", FORMATS)
def test_containers_and_parameters(form: str, tmp_path: Path) -> None:
    content = {
        "ordered": OrderedDict(a=1, b=[2, (3, "x")]),
        "default": defaultdict(list, {"q": [1]}),
        "set": {1, 2},
        "numbers": (1.5, 2**70, -5, True, None),
        "size": BASE.shape,
        "parameter": nn.Parameter(SHARED.clone()),
        "dtype": torch.float32,
    }
    torch.save(content, tmp_path / "x.pt", **FORMATS[form])
    found = read_objects(tmp_path / "x.pt")
    assert isinstance(found, dict)
    assert torch.equal(found.pop("parameter"), SHARED)
    assert found.pop("dtype") == Name("torch.float32")
    assert found == {key: content[key] for key in found}
    assert type(found["ordered"]).__module__ == "resonnx_export.checkpoints.pickles"


@pytest.mark.parametrize("form", FORMATS)
def test_whole_modules(form: str, tmp_path: Path) -> None:
    network = Network()
    torch.save({"encoder": network, "epoch": 3}, tmp_path / "x.pt", **FORMATS[form])
    tree = read_objects(tmp_path / "x.pt")
    assert isinstance(tree, dict)
    stub = tree["encoder"]
    assert isinstance(stub, Stub)
    assert stub.path.endswith(".Network")
    assert stub.attributes["settings"] == {"size": 3}
    found, reference = state_dict_of(stub), network.state_dict()
    assert list(found) == list(reference)
    assert all(torch.equal(found[key], value) for key, value in reference.items())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles(protocol: int, tmp_path: Path) -> None:
    content = {
        "w": {"a": 1, "\u00e9": 2},
        "l": [1, 2.5, True, None, "x\n\\'"],
        "t": (1, 2, 3, 4),
        "s": {1},
        "n": -(2**80),
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    assert read_pickle(tmp_path / "x.pkl") == content
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Words(), protocol))
    words = read_pickle(tmp_path / "x.pkl")
    assert isinstance(words, Stub)
    assert words.path.endswith(".Words")
    assert words.attributes == vars(Words())


def test_pickles_of_python_2(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"(dp0\nS'caf\\xc3\\xa9 \\'q\\'\\t'\np1\nI5\nsVw\\u00e9\np2\nI01\ns.")
    assert read_pickle(tmp_path / "x.pkl") == {"caf\u00c3\u00a9 'q'\t": 5, "w\u00e9": True}
    (tmp_path / "x.pkl").write_bytes(
        b"ccopy_reg\n_reconstructor\np1\n(c__main__\nVocabulary\np2\nc__builtin__\nobject\np3\nNtRp4\n(dp5\nS'w'\nI1\nsb."
    )
    words = read_pickle(tmp_path / "x.pkl")
    assert isinstance(words, Stub)
    assert (words.path, words.attributes) == ("__main__.Vocabulary", {"w": 1})


def test_kinds_of_dicts_and_lists_keep_their_content(tmp_path: Path) -> None:
    class_path = f"{Entries.__module__}.Entries"
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([Entries(a=1), Elements([1, 2]), Counter("aab")]))
    entries, elements, counter = read_pickle(tmp_path / "x.pkl")  # type: ignore[misc]
    assert (entries.path, entries.items, elements.elements) == (class_path, {"a": 1}, [1, 2])
    assert counter.args == ({"a": 2, "b": 1},)


class Entries(dict[str, int]):
    pass


class Elements(list[int]):
    pass


class Evil:
    """Has every hook that an unpickler calls."""

    def __reduce__(self) -> tuple[object, ...]:
        return eval, ("1/0",), {"state": 1}, iter([1]), iter([("a", 1)])


def test_an_object_beside_the_weights_is_inert(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": SHARED}, "args": Evil()}, tmp_path / "x.pt")
    tree = read_objects(tmp_path / "x.pt")
    assert isinstance(tree, dict)
    evil = tree["args"]
    assert (evil.path, evil.args, evil.state) == ("__builtin__.eval", ("1/0",), {"state": 1})
    assert (evil.items, evil.elements) == ({"a": 1}, [1])
    assert torch.equal(load_checkpoint(tmp_path / "x.pt").state_dict["a"], SHARED)


def test_a_stub_that_is_no_module() -> None:
    with pytest.raises(BadInput, match=r"pickled os\.system"):
        state_dict_of(Stub("os.system", ("true",)))


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": SHARED}, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(load_checkpoint(tmp_path / "x.pt").state_dict["a"], SHARED)


def test_a_changed_value_in_a_zip_file_shows(tmp_path: Path) -> None:
    torch.save({"a": SHARED}, tmp_path / "x.pt")
    content = (tmp_path / "x.pt").read_bytes()
    stored = SHARED.numpy().tobytes()
    assert content.count(stored) == 1
    (tmp_path / "x.pt").write_bytes(content.replace(stored, (SHARED + 1).numpy().tobytes()))
    with pytest.raises(BadInput, match=r"damaged.*CRC"):
        read_objects(tmp_path / "x.pt")


def test_no_pickle(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    with pytest.raises(BadInput, match="is not a readable pickle: it is text that begins with 'one"):
        read_pickle(tmp_path / "words.txt")
    with pytest.raises(BadInput, match="No such file"):
        read_pickle(tmp_path / "none.pkl")
