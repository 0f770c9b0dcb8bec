"""What the documents name exists: links, files, metrics, settings; and how long README may be."""

import re
from pathlib import Path

import pytest
from resonnx_server.config import ModelSettings, Settings

from ..test_rooms import MAY_IMPORT
from .commands import ROOT

_PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")])
_IDS = [str(page.relative_to(ROOT)) for page in _PAGES]
# Where a path that a page names may start, beside the repository's root and the page's own folder.
_STARTS = ("server/resonnx_server", "export/resonnx_export", "client/resonnx", "benchmarks", "proto")
# Folders of users.
_USERS = ("models/", "pictures/", "NAME/")
_DISTRIBUTIONS = ("proto", "server", "export", "client")
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"\w[\w.-]*(/[\w.-]+)*/?")


def _names_a_path(code: str) -> bool:
    is_path = _PATH.fullmatch(code) is not None and code.isascii()
    return is_path and code.endswith((".py", ".md", ".proto", "/")) and not code.startswith(_USERS)


def _exists(page: Path, path: str) -> bool:
    folders = [ROOT, page.parent, *(ROOT / start for start in _STARTS)]
    if any((folder / path).exists() for folder in folders):
        return True
    # A test, or a file of each distribution, by its name alone.
    return "/" not in path and any((*ROOT.glob(f"tests/**/{path}"), *ROOT.glob(f"*/{path}")))


@pytest.mark.parametrize("page", _PAGES, ids=_IDS)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    missing = [code for code in _CODE.findall(text) if _names_a_path(code) and not _exists(page, code)]
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if not link.startswith("http")]
    missing += [link for link in links if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", _PAGES, ids=_IDS)
def test_metrics_that_a_page_names_exist(page: Path) -> None:
    known = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    named = set(re.findall(r"\b(?:nv_(?:inference|cpu)|resonnx)_[a-z0-9_]*[a-z0-9]\b", page.read_text()))
    # And the volume of docker-compose.yml.
    others = {"resonnx_server", "resonnx_export", "resonnx_proto", "resonnx_models", "nv_inference", "nv_cpu"}
    assert {name.removesuffix("_bucket") for name in named} - known - others == set()


def test_settings_that_the_operations_page_names_exist() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    tuning = text[text.index("## Tuning") : text.index("## Keys")]
    named = {code.partition(" = ")[0] for code in _CODE.findall(tuning) if re.fullmatch(r"[a-z_]+( = \w+)?", code)}
    assert {"latency_objective_ms", "cache_dir"} <= named
    assert named <= Settings.model_fields.keys() | ModelSettings.model_fields.keys()


def test_the_table_of_rooms_is_the_tested_one() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| (`[a-z]+/`(?:, `[a-z]+/`)*) \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    documented = {
        room: set(re.findall(r"`(\w+)`", allowed)) for rooms, allowed in rows for room in re.findall(r"`(\w+)/`", rooms)
    }
    folders = {name for name in MAY_IMPORT["resonnx_server"] if (ROOT / "server/resonnx_server" / name).is_dir()}
    assert documented == {name: MAY_IMPORT["resonnx_server"][name] for name in folders}


def test_each_dependency_has_its_line() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", text[text.index("## Dependencies") :], re.MULTILINE)
    files = [ROOT / each / name for each in _DISTRIBUTIONS for name in ("pyproject.toml", "setup.py")]
    given = "\n".join(file.read_text() for file in files if file.exists())
    required = set(re.findall(r'"([\w-]+)(?:\[[\w,]+\])?>=', given))
    required |= set(re.findall(r"^[\w-]+", (ROOT / "tests/requirements.txt").read_text(), re.MULTILINE))
    assert {"aiohttp", "onnxruntime-gpu", "pytest"} <= required
    assert required - set(re.findall(r"[\w-]+", "\n".join(rows))) == set()


def test_readme_is_short_and_begins_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 120
    assert re.findall(r"^make \w+", text, re.MULTILINE)[:2] == ["make run", "make test"]
    assert (ROOT / "benchmarks/RESULTS.md").read_text().count("\n") <= 200


@pytest.mark.parametrize("image", sorted((ROOT / "docs/images").glob("*")), ids=lambda path: path.name)
def test_images_are_small(image: Path) -> None:
    assert image.stat().st_size < 300_000
