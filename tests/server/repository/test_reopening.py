"""Sessions of a serving model are opened again from the files of the load, or not at all."""

import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.captioner import entry as captioners
from resonnx_server.repository.reopening import Source
from resonnx_server.runtime.session import CPU, CUDA, Candidate, Session
from resonnx_server.scheduling.latency import LatencyTable

from .. import bare_graphs
from ..language import picture
from ..onnx_language import onnx_files, open_language

X = np.array([[1, 2, 3]], np.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(bare_graphs.doubling())
    return path


@pytest.fixture
def session(file: Path) -> Session:
    return Session(file.read_bytes(), Candidate(CPU, pb.PRECISION_FP32), 1, spinning=True)


def _source(file: Path) -> Source:
    return Source.of_bytes(file.name, file.read_bytes(), file.read_bytes)


def test_another_session_like_the_first(file: Path, session: Session) -> None:
    again = _source(file).open_again(session.opener(), (1, 2))
    assert again is not session
    assert (again.candidate, again.threads, again.spinning) == (session.candidate, 1, True)
    assert again.run({"x": X})["y"].tolist() == [[2, 4, 6]]


def test_a_file_that_has_changed_is_refused(file: Path, session: Session) -> None:
    source = _source(file)
    file.write_bytes(bare_graphs.counting())
    with pytest.raises(ModelRefused, match=r"model\.onnx has changed since it was loaded"):
        source.open_again(session.opener(), (1,))
    file.unlink()
    with pytest.raises(FileNotFoundError):
        source.open_again(session.opener(), (1,))


@pytest.mark.parametrize(("provider", "expected"), [(CPU, []), (CUDA, [1, 4])])
def test_other_providers_compile_each_size_before_they_serve(
    file: Path, session: Session, provider: str, expected: list[int]
) -> None:
    """Or their first runs would be taken for runs that hang."""
    ran: list[int] = []

    class Other:
        candidate, inputs = replace(session.candidate, provider=provider), session.inputs

        def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            ran.append(len(feeds["x"]))
            return feeds

    _source(file).open_again(lambda _: Other(), (1, 4))  # type: ignore[arg-type,return-value]
    assert ran == expected


def test_encoder_and_decoder_of_a_captioner() -> None:
    files = onnx_files()
    graphs, table = open_language(files), LatencyTable({1: 1e6})
    sources = tuple(
        Source.of_bytes(name, files[name], lambda name=name: files[name])  # type: ignore[misc]
        for name in ("encoder.onnx", "decoder.onnx")
    )
    encoder, decoder = captioners._pools(graphs, table, table, sources, 0)
    assert encoder.open_again is not None
    assert decoder.open_again is not None
    encode, step = encoder.open_again(), decoder.open_again()
    images = picture(7)[np.newaxis]
    state, features, *_ = encode(images)
    expected_state, expected_features, *_ = graphs.encode(images)
    assert [array.tolist() for array in (*state, *features)] == [
        array.tolist() for array in (*expected_state, *expected_features)
    ]
    tokens = np.array([3])
    assert step(tokens, state, features).top_ids.tolist() == graphs.step(tokens, state, features).top_ids.tolist()


def test_a_captioner_that_let_go_opens_both_graphs_once_and_each_alone_later() -> None:
    files = onnx_files()
    graphs, table = open_language(files), LatencyTable({1: 1e6})
    reads: list[str] = []

    def read(name: str) -> bytes:
        reads.append(name)
        return files[name]

    sources = tuple(
        Source.of_bytes(name, files[name], partial(read, name)) for name in ("encoder.onnx", "decoder.onnx")
    )
    encoder, decoder = captioners._pools(graphs, table, table, sources, 0)
    sessions = [weakref.ref(graphs.encoder), weakref.ref(graphs.decoder)]
    assert encoder.open_again is not None
    assert decoder.open_again is not None
    assert encoder.let_go is not None
    expected = [array.tolist() for array in graphs.encode(picture(7)[np.newaxis])[0]]
    del graphs
    for pool in (encoder, decoder):
        pool.run = lambda: None
        pool.let_go()  # type: ignore[misc]
    assert [session() for session in sessions] == [None, None]
    encode, step = encoder.open_again(), decoder.open_again()
    assert reads == ["encoder.onnx", "decoder.onnx"]
    assert encode.__self__ is step.__self__
    assert [array.tolist() for array in encode(picture(7)[np.newaxis])[0]] == expected
    decoder.open_again()
    assert reads[2:] == ["decoder.onnx"]
