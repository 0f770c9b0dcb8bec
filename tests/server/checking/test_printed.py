"""`--print-config`: all settings with their sources, as a file that gives the same."""

from pathlib import Path

from resonnx_server.checking.printed import printed
from resonnx_server.config_sources import load_settings, setting_sources
from resonnx_server.repository.model_config.settings import settings_of


def _repository(tmp_path: Path) -> Path:
    """Two models: one with settings of all kinds, one that is refused."""
    repository = tmp_path / 'models "é"'
    (repository / "one.two" / "1").mkdir(parents=True)
    (repository / "one.two" / "config.toml").write_text(
        'max_batch_size = 4\nlabels = {stable = 3, "b.c" = 4}\nversion_policy = "all"\n'
    )
    (repository / "one.two" / "config.pbtxt").write_text("max_batch_size: 8 instance_group { count: 2 }")
    (repository / "bad" / "1").mkdir(parents=True)
    (repository / "bad" / "config.toml").write_text("max_batch = 4\n")
    return repository


def test_each_setting_has_its_source(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('[server]\nport = 1\nhost = "::"\ngrace_s = 1\n[models."one.two"]\nmax_queue_size = 9\n')
    flags = {"repository": str(_repository(tmp_path)), "config": str(file), "port": "3", "strict": None}
    environment = {"RESONNX_PORT": "2", "RESONNX_GRACE_S": "2.5", "RESONNX_HTTP_PORT": ""}
    settings = load_settings(flags, environment)
    lines = [*printed(settings, setting_sources(flags, environment))]
    for line in (
        "port = 3  # flag --port",
        "grace_s = 2.5  # variable RESONNX_GRACE_S",
        f'host = "::"  # file {file}',
        "http_port = 8002  # default",
        "# keys_file is not set  # default",
        '[models."one.two"]',
        "max_batch_size = 4  # config.toml",
        "max_instances = 2  # config.pbtxt",
        "max_queue_size = 9  # [models.one.two]",
        'provider = "auto"  # the server\'s provider',
        "max_queue_delay_us = 0  # default",
        'labels = {stable = 3, "b.c" = 4}  # config.toml',
    ):
        assert line in lines
    (refused,) = (line for line in lines if line.startswith("# models.bad is refused: "))
    assert "config.toml, line 1: setting max_batch: there is no such setting" in refused


def test_what_is_printed_gives_the_same_settings(tmp_path: Path) -> None:
    repository = _repository(tmp_path)
    settings = load_settings(
        {"repository": str(repository), "formats": "JPEG,TIFF", "cache_dir": 'a"\\\x7f\n', "provider": "cpu"}, {}
    )
    file = tmp_path / "printed.toml"
    file.write_text("\n".join(printed(settings, {})))
    read = load_settings({"config": str(file)}, {})
    assert read.model_dump(exclude={"models"}) == settings.model_dump(exclude={"models"})
    own = settings_of(repository / "one.two", "one.two", settings)
    assert read.models["one.two"].model_dump() == own.model_dump(exclude={"declaration"}) | {"declaration": None}


def test_a_repository_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    settings = load_settings({"repository": str(tmp_path / "none")}, {})
    assert f"# repository {str(tmp_path / 'none')!r}: No such file or directory" in [*printed(settings, {})]
