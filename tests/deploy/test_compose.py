"""docker-compose.yml, the Dockerfiles and Prometheus's configuration agree with each other and with the documents.

Nothing is built here: `deploy/check-images` and `deploy/newcomer` build and run the images.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

_ROOT = Path(__file__).parents[2]
_SERVICES = ("export", "server", "prometheus", "grafana")
_IMAGES = ("export", "server", "client")
_BASE = "python:3.11-slim-bookworm"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((_ROOT / "docker-compose.yml").read_text())
    return content


def _override(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((_ROOT / f"deploy/compose/{name}.yml").read_text())
    return content["services"]


def _dockerfile(room: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, with continued lines joined."""
    text = (_ROOT / room / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def _values(room: str, instruction: str) -> list[str]:
    return [value for name, value in _dockerfile(room) if name == instruction]


def _default(published: str) -> str:
    """Return a port with the default values of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", published)


def test_services(compose: dict[str, Any]) -> None:
    assert tuple(compose["services"]) == _SERVICES


def test_server_waits_for_the_models_to_be_written(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["server"]["depends_on"] == {"export": {"condition": "service_completed_successfully"}}
    assert services["export"]["restart"] == "no"
    assert "models:/models" in services["export"]["volumes"]
    assert "models:/models:ro" in services["server"]["volumes"]
    assert "cache:/cache" in services["server"]["volumes"]
    assert _values("export", "CMD") == ['["demo", "--repository", "/models"]']


@pytest.mark.parametrize("service", _SERVICES)
def test_containers_are_confined(compose: dict[str, Any], service: str) -> None:
    settings = compose["services"][service]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert not settings.keys() & {"privileged", "cap_add", "pid", "devices"}
    assert settings.get("network_mode") != "host"
    assert not any("docker.sock" in volume for volume in settings["volumes"])


def test_ports_are_published_on_the_loopback_only(compose: dict[str, Any]) -> None:
    ports = {
        name: [_default(port) for port in service.get("ports", [])] for name, service in compose["services"].items()
    }
    assert ports == {
        "export": [],
        "server": ["127.0.0.1:8001:8001", "127.0.0.1:8002:8002"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_stopping_leaves_longer_than_the_servers_grace(compose: dict[str, Any]) -> None:
    from resonnx_server.config import Settings

    longest_s = sum(Settings.model_fields[name].default for name in ("drain_delay_s", "grace_s")) + 12
    assert int(compose["services"]["server"]["stop_grace_period"].removesuffix("s")) >= longest_s


def test_a_server_whose_models_load_is_not_unhealthy() -> None:
    from resonnx_server.config import Settings

    (check,) = _values("server", "HEALTHCHECK")
    period = re.search(r"--start-period=(\d+)s", check)
    assert period is not None
    assert int(period[1]) >= Settings.model_fields["load_timeout_s"].default


def test_prometheus_scrapes_the_server(compose: dict[str, Any]) -> None:
    settings = yaml.safe_load((_ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (job,) = settings["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["server:8002"]}]
    assert job.get("metrics_path", "/metrics") == "/metrics"
    prometheus = compose["services"]["prometheus"]
    assert re.fullmatch(r"prom/prometheus:v\d+\.\d+\.\d+", prometheus["image"])
    assert "./deploy/prometheus:/etc/prometheus:ro" in prometheus["volumes"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in prometheus["command"]
    assert prometheus["depends_on"] == ["server"]


def test_grafana_shows_prometheus_and_the_dashboards_of_the_repository(compose: dict[str, Any]) -> None:
    grafana = compose["services"]["grafana"]
    assert re.fullmatch(r"grafana/grafana:\d+\.\d+\.\d+", grafana["image"])
    assert grafana["depends_on"] == ["prometheus"]
    mounted = dict(volume.removesuffix(":ro").split(":") for volume in grafana["volumes"])
    folder = _ROOT / "deploy/grafana/provisioning"
    assert mounted["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    (provider,) = yaml.safe_load((folder / "dashboards/resonnx.yml").read_text())["providers"]
    assert mounted["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert (_ROOT / "deploy/grafana/dashboards").is_dir()


def test_nobody_logs_in_to_grafana(compose: dict[str, Any]) -> None:
    """Its first administrator would have a known password."""
    environment = compose["services"]["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


@pytest.mark.parametrize("service", _SERVICES)
def test_memory_and_logs_are_bounded(compose: dict[str, Any], service: str) -> None:
    settings = compose["services"][service]
    assert re.fullmatch(r"\d+[gm]", _default(settings["mem_limit"]))
    assert settings["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}}


def test_the_example_of_variables_has_them_all_with_their_defaults() -> None:
    text = (_ROOT / "docker-compose.yml").read_text()
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    example = re.findall(r"^(\w+)=(.*)$", (_ROOT / ".env.example").read_text(), re.MULTILINE)
    assert dict(example) == used
    # A server that is started in the same shell takes them for settings.
    from resonnx_server.config_sources import foreign_variables

    assert foreign_variables(used) == []
    for files in re.findall(r"^# COMPOSE_FILE=(.*)$", (_ROOT / ".env.example").read_text(), re.MULTILINE):
        assert all((_ROOT / file).exists() for file in files.split(":"))


def test_a_gpu_is_given_to_the_server_of_the_gpu_image(compose: dict[str, Any]) -> None:
    (server,) = _override("gpu").values()
    assert server["build"]["args"] == {"RUNTIME": "gpu"}
    assert server["image"] != compose["services"]["server"]["image"]
    (device,) = server["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_with_keys_and_tls_the_probe_and_prometheus_have_a_key(compose: dict[str, Any]) -> None:
    from resonnx_server.config_sources import load_settings

    services = _override("tls")
    settings = load_settings({"repository": "."}, services["server"]["environment"])
    files = [str(file) for file in (settings.keys_file, settings.tls_certificate, settings.tls_key)]
    assert files == ["/secrets/keys.toml", "/secrets/tls.pem", "/secrets/tls.key"]
    assert all("./secrets:/secrets:ro" in service["volumes"] for service in services.values())
    probe = services["server"]["healthcheck"]["test"]
    assert probe == ["CMD", "resonnx-server", "health", "--key-file", "/secrets/monitor.key"]
    command = services["prometheus"]["command"]
    usual = compose["services"]["prometheus"]["command"]
    assert command[1:] == usual[1:]
    name = command[0].removeprefix("--config.file=/etc/prometheus/")
    secure, plain = (
        yaml.safe_load((_ROOT / "deploy/prometheus" / each).read_text()) for each in (name, "prometheus.yml")
    )
    (job,) = secure.pop("scrape_configs")
    (plain_job,) = plain.pop("scrape_configs")
    assert secure == plain
    assert (job["scheme"], job["authorization"]["credentials_file"]) == ("https", probe[-1])
    assert job["tls_config"]["ca_file"] == str(settings.tls_certificate)
    assert {**plain_job, **job} == job
    # Its user is another one than the owner of the files.
    assert services["prometheus"]["group_add"] == ["10001"]


@pytest.mark.parametrize("room", _IMAGES)
def test_images_are_built_from_what_compose_and_the_context_give(compose: dict[str, Any], room: str) -> None:
    # The client is nobody's service.
    if room in compose["services"]:
        build = compose["services"][room]["build"]
        assert (build["context"], build["dockerfile"]) == (".", f"{room}/Dockerfile")
        assert build["args"].keys() <= {value.partition("=")[0] for value in _values(room, "ARG")}
        assert _default(build["args"]["BASE"]) == _BASE
    kept = [line[1:] for line in (_ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [value.split()[:-1] for value in _values(room, "COPY") if not value.startswith("--from=")]
    assert {source for sources in copied for source in sources} <= set(kept)


@pytest.mark.parametrize("room", _IMAGES)
def test_images_carry_their_licences(room: str) -> None:
    """Links in the distributions' folders lead to files beside them, so both must be in the build context."""
    copied = {source for value in _values(room, "COPY") for source in value.split()[:-1]}
    links = [path for part in ("proto", room) for path in (_ROOT / part).iterdir() if path.is_symlink()]
    assert {str(link.resolve().relative_to(_ROOT)) for link in links} <= copied
    assert any("third_party_notices.py >/app/THIRD-PARTY-NOTICES" in value for value in _values(room, "RUN"))
    assert 'org.opencontainers.image.licenses="Apache-2.0"' in _values(room, "LABEL")[0]


@pytest.mark.parametrize("room", _IMAGES)
def test_images_share_a_base_and_are_not_run_by_root(room: str) -> None:
    assert f"BASE={_BASE}" in _values(room, "ARG")
    assert {value.split()[0] for value in _values(room, "FROM")} == {"${BASE}"}
    instructions = _dockerfile(room)
    last_stage = instructions[max(i for i, (name, _) in enumerate(instructions) if name == "FROM") :]
    assert [value for name, value in last_stage if name == "USER"] == ["10001:10001"]


@pytest.mark.parametrize("room", _IMAGES)
def test_images_say_what_they_are(room: str) -> None:
    (label,) = _values(room, "LABEL")
    stated = set(re.findall(r"org\.opencontainers\.image\.([a-z.]+)=", label))
    assert stated == {"title", "description", "licenses", "vendor", "version", "revision", "created", "base.name"}
    assert f"VERSION={(_ROOT / 'VERSION').read_text().strip()}" in _values(room, "ARG")


@pytest.mark.parametrize("room", _IMAGES)
def test_images_are_pruned(room: str) -> None:
    assert any("deploy/prune.py /app" in value for value in _values(room, "RUN"))


def test_server_image_has_the_runtime_that_is_asked_for(compose: dict[str, Any]) -> None:
    assert '-r "deploy/requirements/$RUNTIME.txt"' in str(_values("server", "RUN"))
    runtime = _default(compose["services"]["server"]["build"]["args"]["RUNTIME"])
    assert f"RUNTIME={runtime}" in _values("server", "ARG")
    assert (_ROOT / f"deploy/requirements/{runtime}.txt").exists()


def test_server_image_has_no_torch() -> None:
    assert "torch" not in str(_dockerfile("server"))


def test_server_image_shows_its_settings_and_health() -> None:
    from resonnx_server.config_sources import load_settings

    environment = dict(pair.split("=", 1) for value in _values("server", "ENV") for pair in value.split())
    settings = load_settings({}, environment)
    assert (str(settings.repository), settings.host, str(settings.cache_dir)) == ("/models", "0.0.0.0", "/cache")
    assert _values("server", "EXPOSE") == [f"{settings.port} {settings.http_port}"]
    assert _values("server", "VOLUME") == [str(settings.cache_dir)]
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert _values("server", "HEALTHCHECK")[0].endswith('CMD ["resonnx-server", "health"]')
    # Arguments after the image's name are flags of the server.
    assert _values("server", "ENTRYPOINT") == ['["resonnx-server"]']


@pytest.mark.parametrize("script", ["check-images", "newcomer"])
def test_scripts_can_be_run(script: str) -> None:
    path = _ROOT / "deploy" / script
    assert os.access(path, os.X_OK)
    assert ". deploy/engine.sh\n" in path.read_text()
    assert subprocess.run(["bash", "-n", path]).returncode == 0
