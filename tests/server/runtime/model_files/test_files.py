"""Files of a repository are regular and bounded: nothing that is read can keep its reader waiting."""

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.bare import bare_file
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.runtime.model_files import files
from resonnx_server.runtime.model_files.files import NotReadable, read_regular
from resonnx_server.runtime.model_files.manifest import MANIFEST, SUMS, read_version, sha256sums

from ...onnx_classifier import version


def _refused(read: Callable[[], object]) -> str:
    """The refusal's text; a read that waits for somebody fails the test instead of stopping it."""
    said: list[str] = []

    def reading() -> None:
        with pytest.raises(ModelRefused) as refused:
            read()
        said.append(refused.value.message)

    thread = threading.Thread(target=reading, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits"
    return said[0]


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "FIFO": (os.mkfifo, "is a FIFO, not a regular file"),
    "folder": (Path.mkdir, "is a folder, not a regular file"),
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "is a character device, not a regular file"),
    "too large": (lambda path: _sparse(path, 1 << 40), "has 1099511627776 bytes"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "manifest.json", SUMS])
def test_a_version_is_made_of_regular_files_of_a_bounded_size(tmp_path: Path, name: str, kind: str) -> None:
    make, reason = KINDS[kind]
    content = {"model.onnx": b"graph", "golden.npz": b"examples", MANIFEST: b"{}"}
    for file, data in content.items():
        (tmp_path / file).write_bytes(data)
    (tmp_path / SUMS).write_bytes(sha256sums(content))
    (tmp_path / name).unlink()
    make(tmp_path / name)
    message = _refused(lambda: read_version(tmp_path))
    assert name in message
    assert reason in message


@pytest.mark.parametrize("kind", KINDS)
def test_so_is_a_bare_model(tmp_path: Path, kind: str) -> None:
    make, reason = KINDS[kind]
    make(tmp_path / "model.onnx")
    loaded = replace(version(), folder=ModelFolder("m", 1, tmp_path))
    assert reason in _refused(lambda: bare_file.load(loaded))


def test_a_socket_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _bound_socket(Path("file"))
    with pytest.raises(OSError, match="file"):
        read_regular(Path("file"))


def test_a_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(b"graph")
    (tmp_path / "link").symlink_to("content")
    assert read_regular(tmp_path / "link") == b"graph"


def test_sizes_are_bounded_inclusively(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_regular(file, 5) == b"12345"
    with pytest.raises(NotReadable, match="has 5 bytes; 4 are allowed"):
        read_regular(file, 4)


def test_a_file_that_grows_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As files of /proc, whose reported size is 0."""
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    size = os.stat_result((*file.stat()[:6], 2, *file.stat()[7:10]))
    monkeypatch.setattr(files.os, "fstat", lambda _: size)
    with pytest.raises(NotReadable, match="grew"):
        read_regular(file)
