"""LogSettings: what it reports is in force, and what it cannot do is refused."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from .....conftest import RunningServer
from .conftest import Extended

AS_STARTED = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "ISO8601",
}
LEVELS = ("log_info", "log_warning", "log_error", "log_verbose_level")


@pytest.fixture
def client(extended: Extended) -> Iterator[triton.InferenceServerClient]:
    yield extended.client
    extended.client.update_log_settings({name: AS_STARTED[name] for name in LEVELS})


def _settings(client: triton.InferenceServerClient, **changes: Any) -> dict[str, Any]:
    response = client.update_log_settings(changes) if changes else client.get_log_settings()
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.settings.items()}


def _infer(client: triton.InferenceServerClient) -> None:
    given = triton.InferInput("x", [1, 3], "FP32")
    given.set_data_from_numpy(np.zeros((1, 3), np.float32))
    client.infer("doubling", [given])


def _lines(server: RunningServer, since: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text()[since:].splitlines() if line.startswith("{")]


def test_settings_are_read_and_changed_one_by_one(client) -> None:
    assert _settings(client) == AS_STARTED
    assert _settings(client, log_info=False) == AS_STARTED | {"log_info": False}
    assert _settings(client, log_verbose_level=3, log_file="", log_format="ISO8601") == AS_STARTED | {
        "log_info": False,
        "log_verbose_level": 3,
    }


def test_verbose_logs_tell_each_request_and_others_none(client, extended) -> None:
    def requests() -> int:
        start = len(extended.server.log.read_text())
        _infer(client)
        # The line of the change below follows that of the request.
        client.update_log_settings({"log_error": True})
        lines = _lines(extended.server, start)
        assert [line for line in lines if line["message"] == "settings of logs change"]
        return sum(line["message"] == "a request ended" and line["model"] == "doubling" for line in lines)

    assert requests() == 0
    client.update_log_settings({"log_verbose_level": 1})
    assert requests() == 1
    client.update_log_settings({"log_verbose_level": 0})
    assert requests() == 0


def test_levels_are_switched_each_on_its_own(client, extended) -> None:
    client.update_log_settings({"log_warning": False, "log_error": False})
    start = len(extended.server.log.read_text())
    client.update_log_settings({"log_error": True})
    client.update_log_settings({"log_warning": True})
    assert _lines(extended.server, start) == [], "lines of the level warning"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("log_colour", {"bool_param": True}, "'log_colour' is not a setting of logs; these are: log_info"),
        ("log_info", {"uint32_param": 1}, "settings['log_info']: must be a bool"),
        ("log_info", {}, "settings['log_info']: must be a bool"),
        ("log_verbose_level", {"bool_param": True}, "must be an integer"),
        ("log_file", {"string_param": "/etc/passwd"}, "lines go to stderr"),
        ("log_format", {"string_param": "default"}, "'default' is not possible: lines are JSON"),
    ],
)
def test_what_cannot_be_set_is_refused_and_nothing_changes(
    client, extended, name: str, value: dict[str, Any], message: str
) -> None:
    before = extended.server.metric("resonnx_rejected_calls_total", reason="INVALID_INPUT")
    request = pb.LogSettingsRequest()
    request.settings["log_warning"].bool_param = False
    request.settings[name].MergeFrom(pb.LogSettingsRequest.SettingValue(**value))
    with grpc.insecure_channel(extended.server.admin) as channel, pytest.raises(grpc.RpcError) as refused:
        grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).LogSettings(request, timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in refused.value.details()
    assert _settings(client) == AS_STARTED
    assert extended.server.metric("resonnx_rejected_calls_total", reason="INVALID_INPUT") == before + 1
