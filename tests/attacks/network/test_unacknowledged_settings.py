"""A connection that does not acknowledge the limits of headers, and sends them without end: row "endless headers"."""

import time
from pathlib import Path

import pytest

from ...server import bare_graphs
from ..guarded import FRONTS
from ..http2 import Connection

# Twice the server's time.
_ENDED_S = 20.0


@pytest.mark.slow
@pytest.mark.parametrize("front", FRONTS)
def test_a_connection_that_acknowledges_no_limits_is_ended(start_server, tmp_path: Path, front: str) -> None:
    model = tmp_path / "models" / "doubling" / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(bare_graphs.doubling())
    with start_server(tmp_path / "models", "--grpc-front", front) as server:
        connection = Connection(server.grpc, acknowledges=False)
        connection.begin_headers()
        end = time.monotonic() + _ENDED_S
        while connection.send_headers(50):
            assert time.monotonic() < end
            time.sleep(0.02)
        connection.close()
