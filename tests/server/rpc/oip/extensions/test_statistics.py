"""ModelStatistics, /metrics and a client that counts agree exactly, whatever became of the requests."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from resonnx_proto.inference import grpc_service_pb2_grpc

from .....conftest import RunningServer
from .... import bare_graphs
from .counting import Counting, assert_agree, counts, picture_request, request, statistics

NAMES = ("doubling", "picky", "loops")
# Kinds of requests, and how many of each are sent.
KINDS = {"success": 14, "shape": 4, "model": 3, "version": 3, "failure": 4, "picky": 4, "deadline": 4, "cancel": 2}


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("counted")
    for name, content in zip(NAMES, (bare_graphs.doubling(), bare_graphs.picky(), bare_graphs.counting()), strict=True):
        path = folder / "models" / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    (folder / "config.toml").write_text("[models.doubling]\nallow_timeout_override = true\n")
    with start_server(folder / "models", "--config", str(folder / "config.toml")) as running:
        yield running


def _act(client: Counting, kind: str, rng: random.Random) -> None:
    rows, stream = rng.choice([1, 2, 5, 16, 40]), rng.random() < 0.4
    x = np.zeros((rows, 3), np.float32)
    if kind == "success":
        client.ask(request("doubling", x), stream)
    elif kind == "shape":
        client.ask(request("doubling", x[:, :2]), stream)
    elif kind == "model":
        client.ask(request("nobody", x), stream, known=False)
    elif kind == "version":
        client.ask(request("doubling", x, version="7"), stream, known=False, told="VERSION_NOT_FOUND")
    elif kind == "deadline":
        client.ask(request("doubling", x, timeout=1), stream)
    elif kind == "cancel":
        client.cancel()
    else:
        indices = np.full((rows, 1), 2 if kind == "picky" else 3, np.int64)
        client.ask(request("picky", indices), stream)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_all_agree_after_any_mix(server: RunningServer, seed: int) -> None:
    rng = random.Random(seed)
    before = counts(server, NAMES)
    with grpc.insecure_channel(server.grpc) as channel, ThreadPoolExecutor(4) as threads:
        client = Counting(server, channel)
        kinds = [kind for kind, times in KINDS.items() for _ in range(times)]
        rng.shuffle(kinds)
        for done in [threads.submit(_act, client, kind, random.Random(rng.random())) for kind in kinds]:
            done.result()
        client.settle()
    assert client.failures["loops", "CANCELLED"]
    assert_agree(client, before, counts(server, NAMES), statistics(server))


def test_filters(server: RunningServer) -> None:
    assert statistics(server).keys() == {*NAMES}
    assert statistics(server, "picky").keys() == statistics(server, "picky", "1").keys() == {"picky"}
    for arguments, message in (
        (("nobody",), "not in the repository"),
        (("picky", "2"), "has no version 2"),
        (("picky", "\N{FULLWIDTH DIGIT ONE}"), "neither a number nor a label"),
    ):
        with pytest.raises(triton.InferenceServerException, match=message) as refused:
            statistics(server, *arguments)
        assert refused.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.usefixtures("demo_server")
def test_words_of_a_stream_are_counted_by_their_index(demo_server, samples: Path, truth) -> None:
    file = next((samples / name).read_bytes() for name, entry in truth.items() if entry["model"] == "scenes")
    given = picture_request("scenes", file)
    given.parameters["stream"].bool_param = True
    before = statistics(demo_server, "scenes")["scenes"].response_stats
    with grpc.insecure_channel(demo_server.grpc) as channel:
        answers = list(grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([given])))
    after = statistics(demo_server, "scenes")["scenes"].response_stats
    counted = {key: value.success.count - before[key].success.count for key, value in after.items()}
    assert {key for key, count in counted.items() if count} == {str(index) for index in range(len(answers))}
    assert all(value.success.ns > 0 for value in after.values())
