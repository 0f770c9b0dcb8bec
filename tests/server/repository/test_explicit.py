"""Models that are loaded and unloaded on request."""

import threading
from pathlib import Path

import grpc
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

from .. import answering

_EXPLICIT = ("--control-mode", "explicit", "--admin-port", "0")
_RAW = vision_pb2.Image.Raw(rgb=bytes(answering.SIDE**2 * 3), width=answering.SIDE, height=answering.SIDE)


class Admin:
    """A client of the admin port."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._oip = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self._vision = vision_pb2_grpc.VisionStub(channel)

    def load(self, name: str) -> None:
        self._oip.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=300)

    def unload(self, name: str) -> None:
        self._oip.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name), timeout=300)

    def states(self) -> dict[tuple[str, str], str]:
        models = self._oip.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=20).models
        return {(each.name, each.version): each.state for each in models}

    def classify(self, name: str) -> tuple[int, int]:
        request = vision_pb2.ClassifyRequest(model=name, image={"raw": _RAW}, top_k=1)
        answer = self._vision.Classify(request, timeout=20)
        return answer.version, answer.predictions[0].index


def _refused(call, *words: str) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as told:
        call()
    assert all(word in told.value.details() for word in words), told.value.details()
    return told.value.code()


def test_models_are_loaded_and_unloaded_by_request(start_server, tmp_path: Path) -> None:
    for name in ("a", "b"):
        answering.write(tmp_path / name / "1", 1)
    flags = (*_EXPLICIT, "--load-models", "a")
    with start_server(tmp_path, *flags) as server, grpc.insecure_channel(server.admin) as channel:
        admin = Admin(channel)
        assert admin.states() == {("a", "1"): "READY"}
        admin.load("b")
        assert admin.classify("b") == (1, 1)
        # What has changed is loaded, and what is bad is refused: the old one serves on.
        answering.write(tmp_path / "b" / "1", 5)
        admin.load("b")
        assert admin.classify("b") == (1, 5)
        answering.write(tmp_path / "b" / "2", 6, lies=True)
        _refused(lambda: admin.load("b"), "version 2", "disagree with the golden")
        assert admin.classify("b") == (1, 5)
        # A load that finds nothing new changes nothing.
        admin.load("a")
        assert admin.classify("a") == (1, 1)
        admin.unload("b")
        assert admin.states()["b", "1"] == "UNAVAILABLE"
        assert _refused(lambda: admin.classify("b")) is grpc.StatusCode.NOT_FOUND
        for name in ("nobody", "../a", "", "a/1"):
            _refused(lambda name=name: admin.load(name))
        assert _refused(lambda: admin.unload("nobody")) is grpc.StatusCode.NOT_FOUND
        answering.write(tmp_path / "b" / "2", 6)
        admin.load("b")
        assert admin.classify("b") == (2, 6)
        assert server.metric("resonnx_model_loads_total", model="b", result="ready") == 3


def test_other_modes_do_not_load_by_request(start_server, tmp_path: Path) -> None:
    answering.write(tmp_path / "a" / "1", 1)
    with start_server(tmp_path, "--admin-port", "0") as server, grpc.insecure_channel(server.admin) as channel:
        admin = Admin(channel)
        for call in (admin.load, admin.unload):
            assert _refused(lambda call=call: call("a"), "control_mode") is grpc.StatusCode.UNIMPLEMENTED
        assert admin.classify("a") == (1, 1)


@pytest.mark.parametrize(
    ("threads", "rounds"), [(8, 2), pytest.param(32, 256, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_many_threads_load_and_unload_the_same_models(start_server, tmp_path: Path, threads: int, rounds: int) -> None:
    names = ("a", "b", "c")
    for number, name in enumerate(names):
        answering.write(tmp_path / name / "1", number)
    with start_server(tmp_path, *_EXPLICIT, "--load-models", "a") as server, grpc.insecure_channel(server.admin) as one:
        failed: list[str] = []

        def change(number: int) -> None:
            with grpc.insecure_channel(server.admin) as channel:
                admin = Admin(channel)
                for turn in range(rounds):
                    name = names[(number + turn) % len(names)]
                    try:
                        (admin.load if (number + turn) % 2 else admin.unload)(name)
                    except grpc.RpcError as error:
                        if error.code() is not grpc.StatusCode.NOT_FOUND:
                            failed.append(str(error))

        changing = [threading.Thread(target=change, args=(number,)) for number in range(threads)]
        for thread in changing:
            thread.start()
        for thread in changing:
            thread.join()
        assert failed == []
        admin = Admin(one)
        for number, name in enumerate(names):
            admin.load(name)
            assert admin.classify(name) == (1, number)
        admin.unload("b")
        states = admin.states()
        assert [states[name, "1"] for name in names] == ["READY", "UNAVAILABLE", "READY"]
