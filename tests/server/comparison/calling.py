"""A client of a server that compares versions."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import grpc
import numpy as np
from resonnx_proto.inference import grpc_service_pb2 as oip
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import repository_pb2 as pb
from resonnx_proto.v1 import repository_pb2_grpc, vision_pb2, vision_pb2_grpc

from ...conftest import RunningServer
from .. import answering

_RANDOM = np.random.default_rng(3)


class Caller:
    """A client of the server's port, and of its admin port, for one model; closed when the block ends."""

    def __init__(self, server: RunningServer, model: str = "m") -> None:
        self.server, self.model = server, model
        self.channel, self.admin_channel = grpc.insecure_channel(server.grpc), grpc.insecure_channel(server.admin)
        self.vision = vision_pb2_grpc.VisionStub(self.channel)
        # By version.
        self.answers = Counter[int]()
        self.admin = repository_pb2_grpc.RepositoryStub(self.admin_channel)
        self.oip = grpc_service_pb2_grpc.GRPCInferenceServiceStub(self.admin_channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self.admin_channel.close()

    def classify(self, identifier: str = "", **version: int | str) -> tuple[int, int]:
        """Return the version that has answered a random picture, and the best class."""
        side = answering.SIDE
        raw = vision_pb2.Image.Raw(rgb=_RANDOM.bytes(side * side * 3), width=side, height=side)
        request = vision_pb2.ClassifyRequest(model=self.model, image={"raw": raw}, top_k=1, id=identifier, **version)
        answer = self.vision.Classify(request, timeout=20)
        self.answers[answer.version] += 1
        return answer.version, answer.predictions[0].index

    def start(self, version: int, mode: int, **more: object) -> pb.Comparison:
        """Begin to compare a version."""
        request = pb.StartComparisonRequest(model=self.model, version=version, mode=mode, **more)
        return self.admin.StartComparison(request, timeout=60).comparison

    def shadow(self, version: int, **more: object) -> pb.Comparison:
        """Begin to compare a version in shadow, on all requests."""
        return self.start(version, pb.COMPARISON_MODE_SHADOW, share=1, **more)

    def status(self) -> pb.Comparison:
        """Return the model's comparison."""
        (found,) = self.admin.Status(pb.StatusRequest(model=self.model), timeout=20).comparisons
        return found

    def states(self) -> dict[int, tuple[str, str]]:
        """Return the state and the reason of each version of the model."""
        models = self.oip.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=20).models
        return {int(each.version): (each.state, each.reason) for each in models if each.name == self.model}

    def classify_until_ended(self) -> pb.Comparison:
        """Classify until the comparison has a verdict; all are answered. Return how it ended."""
        return until(self.status, lambda it: it.state != pb.COMPARISON_STATE_RUNNING, self.classify)


def until(
    get: Callable[[], pb.Comparison], holds: Callable[[pb.Comparison], bool], do: Callable[[], object]
) -> pb.Comparison:
    """Return the first result of `get` that holds, and do something in between."""
    ends = time.monotonic() + 60
    while not holds(found := get()):
        assert time.monotonic() < ends, found
        for _ in range(10):
            do()
    return found


@contextmanager
def calling(start_server, repository: Path, *flags: str) -> Iterator[Caller]:
    """Start a server in control_mode explicit with the model `m`, and yield its client."""
    explicit = ("--admin-port", "0", "--control-mode", "explicit", "--load-models", "m")
    with start_server(repository, *explicit, *flags) as server, Caller(server) as caller:
        yield caller
