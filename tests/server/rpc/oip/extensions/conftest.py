"""A server whose admin methods are open, for tests of the extensions that they make."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tritonclient.grpc as triton

from .....conftest import RunningServer
from .... import bare_graphs

FLAGS = ("--admin-port", "0", "--system-shared-memory-bytes", str(1 << 20))


@dataclass
class Extended:
    """A running server of a small model, `doubling`, and a client of its admin port."""

    server: RunningServer
    client: triton.InferenceServerClient
    folder: Path


@pytest.fixture(scope="module")
def extended(start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Extended]:
    folder = tmp_path_factory.mktemp("extended")
    model = folder / "models" / "doubling" / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(bare_graphs.doubling())
    (folder / "traces").mkdir()
    with start_server(folder / "models", *FLAGS, "--trace-dir", str(folder / "traces")) as server:
        assert server.admin is not None
        with triton.InferenceServerClient(server.admin) as client:
            yield Extended(server, client, folder)
