"""Files that are no checkpoints, or hold no weights that can be read: the message says what they are and what to do."""

import io
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from onnx import helper
from resonnx_export.checkpoints.files import load_checkpoint
from resonnx_export.errors import BadInput


def tar(path: Path, format: int, *names: str) -> Path:
    with tarfile.open(path, "w:", format=format) as archive:
        for name in names:
            content = pickle.dumps({"name": name}, 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_files_of_old_versions(format: int, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"a tar archive, as PyTorch before 0\.1\.10 saved; load it .* and save"):
        load_checkpoint(tar(tmp_path / "old.pth", format, "sys_info", "pickle", "storages", "tensors"))


@pytest.mark.parametrize("producer", ["", "pytorch"])
def test_onnx_files_go_into_the_repository(producer: str, tmp_path: Path) -> None:
    model = helper.make_model(helper.make_graph([], "g", [], []), producer_name=producer)
    (tmp_path / "m.pth").write_bytes(model.SerializeToString())
    with pytest.raises(
        BadInput, match=r"an ONNX file, no checkpoint: put it into the repository .* resonnx-export onnx"
    ):
        load_checkpoint(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("content", "kind"), [(b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"), (b"GGUF\3\0\0\0", "a GGUF file")]
)
def test_files_of_other_libraries(content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "m.h5").write_bytes(content)
    with pytest.raises(BadInput, match=kind):
        load_checkpoint(tmp_path / "m.h5")


def test_quantised_tensors(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"a": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)}, tmp_path / "m.pth")
    with pytest.raises(BadInput, match=r"quantised tensors .* export the float checkpoint"):
        load_checkpoint(tmp_path / "m.pth")


def test_programs_are_exported_by_running_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", b"")
        archive.writestr("m/constants.pkl", b"")
    with pytest.raises(BadInput, match=r"a TorchScript archive: .* resonnx-export module FILE"):
        load_checkpoint(tmp_path / "m.pt")
