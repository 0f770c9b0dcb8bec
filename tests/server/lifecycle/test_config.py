"""Settings: where they come from, and what is said of those that cannot be used."""

from pathlib import Path

import pytest
from resonnx_server.config import Settings
from resonnx_server.config_sources import ConfigError, foreign_variables, load_settings


def test_flags_go_before_variables_before_the_file_before_defaults(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('[server]\nrepository = "file"\nport = 1\nhttp_port = 1\ngrace_s = 1\n')
    environment = {"RESONNX_CONFIG": str(file), "RESONNX_PORT": "2", "RESONNX_HTTP_PORT": "2"}
    settings = load_settings({"port": "3", "grace_s": None}, environment)
    found = (settings.port, settings.http_port, settings.grace_s, str(settings.repository), settings.host)
    assert found == (3, 2, 1.0, "file", "127.0.0.1")


def test_a_variable_that_kubernetes_sets_for_a_service_of_our_name_is_no_setting() -> None:
    environment = {"RESONNX_PORT": "tcp://10.0.0.1:8001", "RESONNX_HTTP_PORT": "9002", "RESONNX_REPOSITORY": "models"}
    settings = load_settings({}, environment)
    assert (settings.port, settings.http_port) == (8001, 9002)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "setting repository: give --repository, RESONNX_REPOSITORY, or repository in [server]"),
        ("server = 8001", "server must be a section, [server] (it is 8001)"),
        ("models = 1", "models must be a section, [models] (it is 1)"),
        ("[models]\nmax_batch_size = 4", "models.max_batch_size must be a section, [models.max_batch_size] (it is 4)"),
        ("[serve]\nport = 1", "unknown section [serve]; known are [server] and [models.NAME]"),
        ("[server]\nmodels = 1", "models belong in sections [models.NAME], not in [server]"),
        (
            '[server]\nrepository = "."\nprot = 1',
            "setting prot: there is no such setting; did you mean port? There are access_log, ",
        ),
        ('[server]\nrepository = "."\nzzz = 1', "setting zzz: there is no such setting; there are access_log, "),
        ('[server]\nrepository = "."\nport = "x"', "setting port: Input should be a valid integer"),
        ('[server]\nrepository = "."\nport = 70000', "(it is 70000). gRPC port; "),
        ('[server]\nrepository = "."\nport = 70000', "[integer, 0 to 65535; default 8001]"),
        (
            '[server]\nrepository = "."\n[models.m]\nmax_batch = 1',
            "setting models.m.max_batch: there is no such setting; did you mean max_batch_size? There are ",
        ),
        (
            '[server]\nrepository = "."\n[models.m]\nmax_batch_size = -1',
            "models.m.max_batch_size: Input should",
        ),
        ('[server]\nrepository = "."\nformats = [["JPEG"], 1]', "setting formats.0: Input should be 'JPEG'"),
        ('[server]\nrepository = "."\nformats = []', "setting formats: "),
        ("[server", "config file "),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_settings({"config": str(file)}, {})
    assert message in str(error.value)


@pytest.mark.parametrize("given", ["JPEG, TIFF", "jpeg,tiff,JPEG", "Jpeg,TIFF "])
def test_formats_are_listed_in_any_letters_and_once(given: str, tmp_path: Path) -> None:
    assert load_settings({"repository": ".", "formats": given}, {}).formats == ("JPEG", "TIFF")
    assert load_settings({"repository": "."}, {"RESONNX_FORMATS": given}).formats == ("JPEG", "TIFF")
    file = tmp_path / "server.toml"
    file.write_text(f"[server]\nformats = {given.split(',')}\n")
    assert load_settings({"repository": ".", "config": str(file)}, {}).formats == ("JPEG", "TIFF")


@pytest.mark.parametrize(("given", "told"), [("HEIC", "formats.0"), ("JPEG,", "formats.1"), ("", "formats.0")])
def test_formats_that_are_none_are_told(given: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"setting {told}: Input should be 'JPEG', 'PNG', "):
        load_settings({"repository": ".", "formats": given}, {})


def test_a_config_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config file .*none\.toml: there is no such file"):
        load_settings({"config": str(tmp_path / "none.toml")}, {})


def test_the_process_variables_are_not_read_behind_the_callers_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESONNX_PORT", "9")
    assert load_settings({"repository": "."}, {}).port == 8001
    assert Settings(repository=Path()).port == 8001


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RESONNX_REPOSITRY", "RESONNX_REPOSITORY"),
        ("RESONNX_MAX_MESSAGE_BYTE", "RESONNX_MAX_MESSAGE_BYTES"),
        ("RESONNX_LOGLEVEL", "RESONNX_LOG_LEVEL"),
        ("RESONNX_CONFIGS", "RESONNX_CONFIG"),
    ],
)
def test_a_misspelt_variable_is_told_with_the_name_that_is_meant(name: str, meant: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings({"repository": "."}, {name: "1"})
    assert str(error.value) == f"variable {name}: there is no such setting; did you mean {meant}?"


def test_variables_of_others_are_none_of_ours() -> None:
    kubernetes = {
        "RESONNX_SERVICE_HOST": "10.0.0.1",
        "RESONNX_SERVICE_PORT": "8001",
        "RESONNX_SERVICE_PORT_GRPC": "8001",
        "RESONNX_PORT": "tcp://10.0.0.1:8001",
        "RESONNX_PORT_8001_TCP": "tcp://10.0.0.1:8001",
        "RESONNX_PORT_8001_TCP_PROTO": "tcp",
        "RESONNX_PORT_8001_TCP_PORT": "8001",
        "RESONNX_PORT_8001_TCP_ADDR": "10.0.0.1",
        "RESONNX_HTTP_SERVICE_HOST": "10.0.0.1",
        "RESONNX_HTTP_PORT": "tcp://10.0.0.1:8002",
    }
    ours = {"RESONNX_SERVER": "localhost:8001", "RESONNX_BIND": "0.0.0.0", "RESONNX_STRICT": "true"}
    environment = {**kubernetes, **ours, "RESONNX_MODELS": "x", "RESONNX_COLOUR": "red", "PATH": "/bin"}
    assert foreign_variables(environment) == ["RESONNX_COLOUR", "RESONNX_MODELS"]
    settings = load_settings({"repository": "."}, environment)
    assert (settings.port, settings.http_port, settings.strict, settings.models) == (8001, 8002, True, {})
