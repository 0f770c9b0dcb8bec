"""Node's client, @grpc/grpc-js, with the .proto files."""

import json
import shutil
import subprocess

import pytest

from .environments import HERE, node
from .served import Tapped

_PROTOS = HERE.parents[1] / "proto"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("client", ["node"], indirect=True)
def test_node(client: str, tapped: Tapped) -> None:
    # Node looks for packages beside its script.
    script = shutil.copy(HERE / "programs/node/client.js", node() / "client.js")
    command = ["node", script, _PROTOS, json.dumps(tapped.told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "done", done.stdout + done.stderr
