"""The settings of a model from the server's file and from config.toml in its folder."""

import os
from pathlib import Path

import pytest
from resonnx_server.config import Settings
from resonnx_server.config_sources import load_settings
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.model_config.settings import settings_of


def _server(tmp_path: Path, text: str = "", **flags: str) -> Settings:
    file = tmp_path / "server.toml"
    file.write_text(text)
    return load_settings({"config": str(file), "repository": str(tmp_path), **flags}, {})


def _folder(tmp_path: Path, config: str) -> Path:
    folder = tmp_path / "one"
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(config)
    return folder


def test_the_servers_file_goes_before_config_toml_before_defaults(tmp_path: Path) -> None:
    server = _server(tmp_path, "[models.one]\nmax_batch_size = 4\n")
    folder = _folder(tmp_path, "max_batch_size = 8\nmax_queue_size = 100\n")
    found = settings_of(folder, "one", server)
    assert (found.max_batch_size, found.max_queue_size, found.max_queue_delay_us) == (4, 100, 0)
    # Another model of the same files has no section.
    assert settings_of(folder, "two", server).max_batch_size == 8


def test_a_setting_that_repeats_the_default_counts_as_given(tmp_path: Path) -> None:
    server = _server(tmp_path, "[models.one]\nmax_batch_size = 16\n")
    assert settings_of(_folder(tmp_path, "max_batch_size = 8"), "one", server).max_batch_size == 16


def test_a_model_has_the_servers_provider_unless_it_has_its_own(tmp_path: Path) -> None:
    server = _server(tmp_path, '[models.two]\nprovider = "cpu"\n', provider="openvino")
    folder = tmp_path / "none"
    assert settings_of(folder, "one", server).provider == "openvino"
    assert settings_of(folder, "two", server).provider == "cpu"
    assert settings_of(_folder(tmp_path, 'provider = "cuda"'), "one", server).provider == "cuda"


def test_config_toml_is_read_at_each_call(tmp_path: Path) -> None:
    server = _server(tmp_path)
    folder = _folder(tmp_path, "max_batch_size = 8")
    assert settings_of(folder, "one", server).max_batch_size == 8
    _folder(tmp_path, "max_batch_size = 2")
    assert settings_of(folder, "one", server).max_batch_size == 2
    (folder / "config.toml").unlink()
    assert settings_of(folder, "one", server).max_batch_size == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_queue_size = 9\n\nmax_batch = 8",
            "config.toml, line 3: setting max_batch: there is no such setting; did you mean max_batch_size? There are ",
        ),
        ("\nmax_batch_size = 65", "config.toml, line 2: setting max_batch_size: Input should be less than or equal"),
        ("max_batch_size = 65", " no request shares a batch with others. [integer, 0 to 64; default 16]"),
        ("max_batch_size = 'x'", "config.toml, line 1: setting max_batch_size: Input should be a valid integer"),
        ("[models.one]\nmax_batch_size = 8", "config.toml, line 1: setting models: there is no such setting"),
        ("max_batch_size = ", "config.toml is not TOML: Invalid value (at end of document)"),
        ("max_batch_size = 1\nmax_batch_size = 2", "config.toml is not TOML: Cannot overwrite a value (at end"),
        ("run_timeout_s = '" + "x" * 9999 + "'", "(it is 'xxx"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelRefused) as refused:
        settings_of(_folder(tmp_path, text), "one", _server(tmp_path))
    assert message in refused.value.message
    assert len(refused.value.message) < 1000


def test_a_config_toml_that_cannot_be_read_refuses_the_model(tmp_path: Path) -> None:
    server, folder = _server(tmp_path), _folder(tmp_path, "")
    (folder / "config.toml").write_bytes(b"# \xff")
    with pytest.raises(ModelRefused, match=r"config\.toml is not UTF-8: byte 2"):
        settings_of(folder, "one", server)
    (folder / "config.toml").write_text("#" * (1 << 18) + "\n")
    with pytest.raises(ModelRefused, match=r"config\.toml has 262145 bytes; 262144 are allowed"):
        settings_of(folder, "one", server)
    (folder / "config.toml").unlink()
    os.mkfifo(folder / "config.toml")
    with pytest.raises(ModelRefused, match=r"config\.toml is a FIFO, not a regular file"):
        settings_of(folder, "one", server)


def test_a_config_toml_is_refused_where_versions_must_be_signed(tmp_path: Path) -> None:
    """It may turn pictures or choose a version, and nobody has signed it."""
    server, folder = _server(tmp_path, trusted_keys="key.pem"), _folder(tmp_path, "max_batch_size = 8")
    with pytest.raises(ModelRefused, match=r"is not signed, and trusted_keys is set: give .* in \[models.one\]"):
        settings_of(folder, "one", server)
    (folder / "config.toml").unlink()
    assert settings_of(folder, "one", server).max_batch_size == 16
