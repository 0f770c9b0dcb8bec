"""ServerMetadata lists the extensions that work on this server, and no others."""

import tritonclient.grpc as triton

ALWAYS = {
    "classification",
    "model_configuration",
    "schedule_policy",
    "statistics",
    "binary_tensor_data",
    "parameters",
    "logging",
}


def test_what_settings_switch_on_is_listed(demo_server, extended) -> None:
    with triton.InferenceServerClient(demo_server.grpc) as client:
        assert sorted(client.get_server_metadata().extensions) == sorted(ALWAYS)
    listed = extended.client.get_server_metadata().extensions
    assert sorted(listed) == sorted(ALWAYS | {"system_shared_memory", "trace"})
