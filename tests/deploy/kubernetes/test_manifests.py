"""What the manifests say fits the server's settings, the images and the release."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from resonnx_proto import __version__
from resonnx_server.config import Settings

_ROOT = Path(__file__).parents[3]
_KUBERNETES = _ROOT / "deploy/kubernetes"


@pytest.fixture(scope="module")
def deployment() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((_KUBERNETES / "base/server/deployment.yaml").read_text())
    return content


@pytest.fixture(scope="module")
def pod(deployment: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def _default(name: str) -> float:
    value: float = Settings.model_fields[name].default
    return value


def test_pods_have_the_time_to_drain(pod: dict[str, Any]) -> None:
    longest_s = _default("drain_delay_s") + _default("grace_s") + 12
    assert pod["terminationGracePeriodSeconds"] >= longest_s


def test_a_pod_is_taken_out_while_it_still_serves(pod: dict[str, Any]) -> None:
    """Else its callers would see refused connections in a rolling restart."""
    probe = pod["containers"][0]["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < _default("drain_delay_s")


def test_a_pod_may_take_as_long_to_start_as_a_load(pod: dict[str, Any]) -> None:
    probe = pod["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= _default("load_timeout_s")


def test_ports_are_the_servers(pod: dict[str, Any]) -> None:
    ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    assert ports == {"grpc": _default("port"), "http": _default("http_port")}
    assert pod["containers"][0]["readinessProbe"]["grpc"]["port"] == ports["grpc"]


def test_pods_are_hardened(pod: dict[str, Any]) -> None:
    security = pod["containers"][0]["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert "USER 10001:10001" in (_ROOT / "server/Dockerfile").read_text()
    assert not pod["automountServiceAccountToken"]
    writable = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/cache", "/tmp"}


def test_images_and_chart_are_of_this_release(pod: dict[str, Any]) -> None:
    assert pod["containers"][0]["image"] == f"resonnx-server:{__version__}"
    chart = yaml.safe_load((_KUBERNETES / "chart/Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    for file in ("overlays/gpu/kustomization.yaml", "components/demo-models/kustomization.yaml"):
        assert __version__ in (_KUBERNETES / file).read_text(), file
    assert f"resonnx-server:{__version__}" in (_KUBERNETES / "kserve/serving-runtime.yaml").read_text()


def test_variables_are_settings() -> None:
    patch = yaml.safe_load((_KUBERNETES / "overlays/tls/tls.yaml").read_text())
    names = [each["name"] for each in patch["spec"]["template"]["spec"]["containers"][0]["env"]]
    assert names
    assert {name.removeprefix("RESONNX_").lower() for name in names} <= Settings.model_fields.keys()


def test_the_operators_rules_are_prometheus_rules() -> None:
    made = yaml.safe_load((_KUBERNETES / "components/monitoring/rules.yaml").read_text())
    assert made["spec"] == yaml.safe_load((_ROOT / "deploy/prometheus/rules.yml").read_text()), "make dashboard"
    assert (_KUBERNETES / "chart/rules.yaml").resolve() == _KUBERNETES / "components/monitoring/rules.yaml"


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_gives() -> None:
    folder = _KUBERNETES / "components/autoscaling"
    (metric,) = yaml.safe_load((folder / "autoscaler.yaml").read_text())["spec"]["metrics"]
    (rule,) = yaml.safe_load((folder / "adapter.yaml").read_text())
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    documented = (_ROOT / "docs/metrics.md").read_text()
    assert "`resonnx_queue_duration_seconds` | histogram" in documented
    assert "resonnx_queue_duration_seconds_sum" in rule["metricsQuery"]
