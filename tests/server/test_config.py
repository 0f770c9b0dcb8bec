"""Settings: where they come from, and what is said of those that cannot be used."""

from pathlib import Path

import pytest
from resonnx_server.config import ConfigError, load_settings


def test_flags_go_before_variables_before_the_file_before_defaults(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('[server]\nrepository = "file"\nport = 1\nhttp_port = 1\ngrace_s = 1\n')
    environment = {"RESONNX_CONFIG": str(file), "RESONNX_PORT": "2", "RESONNX_HTTP_PORT": "2"}
    settings = load_settings(["--port", "3"], environment)
    found = (settings.port, settings.http_port, settings.grace_s, str(settings.repository), settings.host)
    assert found == (3, 2, 1.0, "file", "127.0.0.1")


def test_a_model_has_the_servers_provider_unless_it_has_its_own(tmp_path: Path) -> None:
    settings = load_settings(["--repository", ".", "--provider", "openvino"], {})
    assert settings.for_model("any").provider == "openvino"
    file = tmp_path / "server.toml"
    file.write_text('[models.one]\nprovider = "cpu"\nmax_batch_size = 4\n')
    settings = load_settings(["--config", str(file), "--repository", ".", "--provider", "openvino"], {})
    assert settings.for_model("one").provider == "cpu"
    assert (settings.for_model("one").max_batch_size, settings.for_model("two").max_batch_size) == (4, 16)


def test_a_variable_that_kubernetes_sets_for_a_service_of_our_name_is_no_setting() -> None:
    environment = {"RESONNX_PORT": "tcp://10.0.0.1:8001", "RESONNX_HTTP_PORT": "9002", "RESONNX_REPOSITORY": "models"}
    settings = load_settings([], environment)
    assert (settings.port, settings.http_port) == (8001, 9002)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "setting repository: give --repository, RESONNX_REPOSITORY, or repository in [server]"),
        ("server = 8001", "server must be a section, [server] (it is 8001)"),
        ("models = 1", "models must be a section, [models] (it is 1)"),
        ("[models]\nmax_batch_size = 4", "models.max_batch_size must be a section, [models.max_batch_size] (it is 4)"),
        ("[serve]\nport = 1", "unknown section [serve]; there are [server] and [models.NAME]"),
        ('[server]\nrepository = "."\nprot = 1', "setting prot: there is no such setting; there are cache_dir, "),
        ('[server]\nrepository = "."\nport = "x"', "setting port: Input should be a valid integer"),
        ('[server]\nrepository = "."\nport = 70000', "(it is 70000)"),
        (
            '[server]\nrepository = "."\n[models.m]\nmax_batch = 1',
            "setting models.m.max_batch: there is no such setting; there are caption_policy, jpeg_scaling, ",
        ),
        ('[server]\nrepository = "."\n[models.m]\nmax_batch_size = 0', "setting models.m.max_batch_size: Input should"),
        ("[server", "config file "),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_settings(["--config", str(file)], {})
    assert message in str(error.value)
