"""The examples of the documents: the blocks of a page run in their order, in a folder of its own."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from resonnx_server.config_sources import load_settings
from resonnx_server.repository.model_config.toml_file import CONFIG_TOML, read_config_toml

from .commands import ROOT
from .conftest import Workplace

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")]
# These export models, or import what benchmarks need, which takes most of a minute.
_SLOW = (
    "README.md",
    "docs/adapters.md",
    "docs/exporting.md",
    "docs/operations.md",
    "docs/quick-start.md",
    "benchmarks/",
)
# Blocks that are shown, not run.
_SHOWN = {"text", "mermaid"}
_METRIC = re.compile(r"\b(?:nv|resonnx)_[a-z0-9_]+")


def _blocks(page: Path) -> list[tuple[int, str, str]]:
    """The fenced blocks of a page: line, language, text."""
    text = page.read_text()
    return [(text.count("\n", 0, block.start()) + 1, block[1], block[2]) for block in _FENCE.finditer(text)]


def _parameters() -> list[object]:
    pages = [page for page in _PAGES if {language for _, language, _ in _blocks(page)} - _SHOWN]
    names = sorted(str(page.relative_to(ROOT)) for page in pages)
    return [pytest.param(name, marks=[pytest.mark.slow] if name.startswith(_SLOW) else []) for name in names]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", _parameters())
def test_examples_run(name: str, workplace: Workplace, request: pytest.FixtureRequest) -> None:
    for line, language, text in _blocks(ROOT / name):
        where = f"{name}:{line}"
        match language:
            case "sh":
                done = workplace.run("bash", "-euo", "pipefail", "-c", text)
            case "python":
                code = text.replace("localhost:8001", workplace.server["grpc"])
                done = workplace.run(sys.executable, "-c", code)
            case "js":
                node_modules: Path = request.getfixturevalue("node_modules")
                workplace.environment["NODE_PATH"] = str(node_modules / "node_modules")
                done = workplace.run("node", "-e", text.replace("localhost:8001", workplace.server["grpc"]))
            case "toml" if not text.startswith("["):
                # The settings of a model, beside it.
                (workplace.folder / CONFIG_TOML).write_text(text)
                assert read_config_toml(workplace.folder), where
                continue
            case "toml":
                file = workplace.folder / "resonnx.toml"
                file.write_text(text)
                assert load_settings({"config": file}, {}).models, where
                continue
            case "yaml":
                content = yaml.safe_load(text)
                if "services" in content:
                    _check_override(content["services"])
                    continue
                if "groups" not in content:
                    _check_kubernetes(content)
                    continue
                rules = [rule for group in content["groups"] for rule in group["rules"]]
                assert all(_METRIC.search(rule["expr"]) for rule in rules), where
                continue
            case _ if language in _SHOWN:
                continue
            case _:
                pytest.fail(f"{where}: a block in {language or 'no language'} is not tested")
        assert done.returncode == 0, f"{where}\n{done.stdout}\n{done.stderr}"
        if language != "sh":
            assert done.stdout.strip(), f"{where}: prints nothing"


def _check_kubernetes(content: dict[str, Any]) -> None:
    """Check that a kustomization names folders of this repository, or that values are those of the chart."""
    if "resources" in content:
        for named in (*content["resources"], *content.get("components", ())):
            assert (ROOT / named.removeprefix("resonnx/") / "kustomization.yaml").is_file(), named
        return
    values = yaml.safe_load((ROOT / "deploy/kubernetes/chart/values.yaml").read_text())
    for name, given in content.items():
        assert given.keys() <= values[name].keys(), name


def _check_override(services: dict[str, Any]) -> None:
    """Check that additions to docker-compose.yml are to its services, and that the server knows the variables."""
    known = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name, added in services.items():
        assert name in known
        variables = added["environment"]
        settings = load_settings({"repository": Path()}, variables)
        for variable, value in variables.items():
            assert str(getattr(settings, variable.removeprefix("RESONNX_").lower())) == value
