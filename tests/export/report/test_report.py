"""report.html: whole, safe whatever names it quotes, and telling what the manifest and the graphs say."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resonnx_export.checkpoints.files import SourceFile
from resonnx_export.classifier import ClassifierSettings, export_recognised
from resonnx_export.cli import app
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks.captioner import Captioner
from resonnx_export.networks.resnet import ResNet
from resonnx_export.options import Target
from resonnx_export.pictures.calibration import split_pictures
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.precision.guard import Limits
from resonnx_export.precision.trunk import int8
from resonnx_export.proof.golden_examples import classifier_golden
from resonnx_export.proof.predictions import CaptionerPredictions, Pictures
from resonnx_export.publish import providers
from resonnx_export.publish.manifest import new_manifest
from resonnx_export.publish.speed import measure_speed
from resonnx_export.wording import milliseconds
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import VersionFiles, onnx_files, read_version
from resonnx_server.runtime.session import CPU, CUDA, Candidate
from typer.testing import CliRunner

from ..conftest import LABELS, WORDS
from ..precision.test_guard import with_outlier
from .report_page import Page, decoded, page_of, render, rendered, some_predictions, version
from .test_report_parts import lightness

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onload='alert(1)", "{{ 7 * 7 }} & </svg>")


@pytest.fixture(params=["digits", "scenes"])
def demo(request: pytest.FixtureRequest, demo_repository: Path) -> VersionFiles:
    return version(demo_repository, request.param)


def test_stands_alone(demo: VersionFiles) -> None:
    page = page_of(demo)
    assert not list(page.all("script"))
    assert not list(page.all("link"))
    for element in page.elements:
        assert not any(name.startswith("on") for name in element.attributes)
        for name in ("src", "href", "xlink:href", "srcset", "style"):
            assert element.attributes.get(name, "#").startswith(("data:image/", "#"))
    style = next(page.all("style")).text
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    policy = next(page.all("meta", **{"http-equiv": "Content-Security-Policy"}))
    assert "default-src 'none'" in policy.attributes["content"]
    assert len(demo.files["report.html"]) < 1_500_000


def test_can_be_read_without_eyes(demo: VersionFiles) -> None:
    page = page_of(demo)
    assert next(page.all("html")).attributes["lang"] == "en"
    assert all(image.attributes["alt"] for image in page.all("img"))
    for svg in page.all("svg", role="img"):
        assert svg.attributes.get("aria-label") or svg.attributes["aria-labelledby"]
    assert all("scope" in heading.attributes for heading in page.all("th"))


def test_tells_what_was_exported(demo: VersionFiles) -> None:
    page, source = page_of(demo), demo.manifest.source
    for told in (source.architecture, source.layout, *source.file_names, *source.sha256, "CPUExecutionProvider/fp32"):
        assert told in page.text
    assert (list(source.file_names), len(source.file_bytes)) == ([f"{_name(demo)}.safetensors"], 1)
    for file, size in demo.manifest.file_bytes.items():
        assert len(demo.files[file]) == size
        assert file in page.text
    assert "typical, the others synthetic" in page.text
    assert "differs" not in [span.text for span in page.all("span")]


def _name(files: VersionFiles) -> str:
    return "digits" if files.manifest.task == pb.TASK_CLASSIFIER else "scenes"


def test_speeds_are_those_of_the_manifest(demo: VersionFiles) -> None:
    speed = demo.manifest.speed
    assert speed.processor
    assert speed.threads >= 1
    rows = [row.text.split("\n") for row in page_of(demo).all("tr")]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    for provider in speed.providers:
        assert [batch.batch_size for batch in provider.batches] == [1, 16 if provider.file == "decoder.onnx" else 8]
        for batch in provider.batches:
            assert 0 < batch.lower_quartile_ms <= batch.median_ms <= batch.upper_quartile_ms
            assert batch.runs >= 3
            assert any(row[0].startswith(provider.file) and milliseconds(batch.median_ms) in row[-1] for row in cells)
    assert {provider.file for provider in speed.providers} == set(onnx_files(demo.manifest))


def test_attention_has_a_picture_a_word(demo_repository: Path) -> None:
    files = version(demo_repository, "scenes")
    page = page_of(files)
    words = [caption.text for caption in page.all("figcaption") if caption.text in files.manifest.captioner.vocabulary]
    overlays = list(page.all("image", **{"class": "attention"}))
    glances = [
        svg.attributes["aria-label"] for svg in page.all("svg") if ": most, " in svg.attributes.get("aria-label", "")
    ]
    assert len(words) == len(overlays) == len(glances) > 9
    assert [glance.partition(":")[0] for glance in glances] == words
    shown = [" ".join(dd.text.split()) for dd in page.all("dd")]
    assert sum(" ".join(words).startswith(caption) for caption in shown if caption.startswith("a ")) >= 2
    rows, columns = files.manifest.captioner.attention_rows, files.manifest.captioner.attention_columns
    for overlay, glance in zip(overlays, glances, strict=True):
        place = re.search(rf"in row (\d+) of {rows}, column (\d+) of {columns}", glance)
        assert place
        light = lightness(decoded(overlay.attributes["href"]))
        y, x = ((int(place[1 + axis]) - 0.5) * light.shape[axis] / (rows, columns)[axis] for axis in (0, 1))
        assert light[int(y), int(x)] >= 0.9 * light.max()


def test_layout_without_attention_says_so(manifest: pb.Manifest) -> None:
    spec = pb.CaptionerSpec(vocabulary=WORDS, end_id=2, stripped_ids=[0, 1], max_tokens=9)
    captioner = pb.Manifest(task=pb.TASK_CAPTIONER, captioner=spec, input=manifest.input)
    captioner.parity.checks.add(name="captions, batch 1, optimised", pictures=1, bound=1e-4, identical=1)
    tokens = [np.array([1, 4, 5, 2]), np.array([1, 6, 2])]
    found = [np.array([1, 4, 7, 2]), np.array([1, 6, 2])]
    pictures = Pictures(
        np.zeros((2, 32, 32, 3), np.uint8) + np.array([0, 9], np.uint8)[:, None, None, None], "pictures"
    )
    predictions = CaptionerPredictions(pictures, tokens, found, [np.zeros(0, np.float32), np.full(3, 1e-6, np.float32)])
    page = Page(render(predictions, captioner, 1e-4))
    assert "This layout has no attention" in page.text
    assert [mark.text for mark in page.all("mark")] == ["word1", "word3"]
    assert page.text.index("Changed prediction") < page.text.index("Same prediction, largest difference 1.0e-6")


def test_hostile_names_are_escaped(manifest: pb.Manifest, network: ResNet) -> None:
    labels = (*HOSTILE, *(f"{'x' * 5000}{i}" for i in range(3)))
    spec = pb.ClassifierSpec(labels=labels, feature_size=network.feature_size)
    files = [SourceFile(name, "0" * 64, 7) for name in HOSTILE]
    source = RecognisedCheckpoint(HOSTILE[0], HOSTILE[1], network, ("float32",))
    content = rendered(
        some_predictions(9, 7), new_manifest(source, files, manifest.input, spec), *HOSTILE, name=HOSTILE[0]
    )
    assert_harmless(content)
    assert "x" * 200 not in content


def test_hostile_words_are_escaped(
    captioner: Captioner, captioner_model: tuple[bytes, bytes], recipe: pb.ImageInput
) -> None:
    words = (*WORDS[:4], *(f"{HOSTILE[i % 4]}{i}" for i in range(16)))
    spec = pb.CaptionerSpec(
        vocabulary=words, start_id=1, end_id=2, max_tokens=4, attention_rows=16, attention_columns=16
    )
    hostile = new_manifest(RecognisedCheckpoint("resonnx-captioner", "small", captioner, ()), [], recipe, spec)
    hostile.parity.checks.add(name="captions, batch 1, optimised", pictures=1, bound=1e-4, identical=1)
    files = dict(zip(("encoder.onnx", "decoder.onnx"), captioner_model, strict=True))
    tokens = [np.arange(4, 20)] * 3
    pictures = Pictures(check_pictures(recipe, 3, seed=1), "pictures")
    predictions = CaptionerPredictions(pictures, tokens, tokens, [np.full(16, 1e-6, np.float32)] * 3)
    content = render(predictions, hostile, 1e-4, files=files)
    assert_harmless(content)
    assert list(Page(content).all("image", **{"class": "attention"}))


def assert_harmless(content: str) -> None:
    """All hostile names are shown as they are, and none became markup."""
    page = Page(content)
    assert not list(page.all("script"))
    assert not any(name.startswith("on") for element in page.elements for name in element.attributes)
    assert all(image.attributes["src"].startswith("data:") for image in page.all("img"))
    assert all(" ".join(name.split()) in page.text for name in HOSTILE)


def test_layers_put_back_are_named(network: ResNet, recipe: pb.ImageInput, tmp_path: Path) -> None:
    calibration = split_pictures(check_pictures(recipe, 64, seed=9))
    settings = ClassifierSettings(recipe, LABELS, storage=lambda *_: int8(calibration, Limits(min_agreement=90)))
    uneven = RecognisedCheckpoint("torchvision", "small", with_outlier(network, "layer2.0"), ("float32",))
    exported = export_recognised(uneven, [], settings, Target(tmp_path / "models", "m"), lambda stage: None)
    (agreement,) = exported.manifest.parity.agreements
    assert list(agreement.blocks_in_float) == ["layer2.0"]
    page = page_of(read_version(exported.folder))
    assert "Kept in floating point to stay within the limits: layer2.0." in page.text
    assert f"{agreement.identical} ({100 * agreement.identical / 32:.1f} %)" in page.text
    assert sum(int(bar.attributes["data-count"]) for bar in page.all("rect")) == 32 * len(LABELS)
    assert "a module in memory" in page.text


def test_same_findings_same_page(manifest: pb.Manifest) -> None:
    assert rendered(some_predictions(9, 7), manifest) == rendered(some_predictions(9, 7), manifest)


def test_providers_that_would_not_serve_are_told(
    network: ResNet, model: bytes, manifest: pb.Manifest, recipe: pb.ImageInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"model.onnx": model}
    golden = classifier_golden(network, recipe, ())
    both = [Candidate(CUDA, pb.PRECISION_FP32), Candidate(CPU, pb.PRECISION_FP32)]
    monkeypatch.setattr(providers, "candidates", lambda *_: both)
    speed = measure_speed(files, manifest, golden)
    absent, present = speed.providers
    assert "CUDAExecutionProvider/fp32" in absent.refused
    assert not absent.batches
    assert present.batches
    assert not present.refused
    golden.logits[0] += 100
    disagreeing = measure_speed(files, manifest, golden).providers[1]
    assert "max|delta|" in disagreeing.refused
    assert not disagreeing.batches
    told = pb.Manifest()
    told.CopyFrom(manifest)
    told.speed.CopyFrom(speed)
    page = Page(rendered(some_predictions(3, 7), told))
    assert f"not used: {' '.join(absent.refused.split())}" in page.text


def test_own_pictures_are_proved_and_shown(
    captioner_file: Path, words_file: Path, classifier_file: Path, labels_file: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    (tmp_path / "pictures").mkdir()
    for i in range(2):
        Image.fromarray(rng.integers(0, 256, (1200, 1100, 3), np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    common = ["--repository", tmp_path / "models", "--size", "32", "--pictures", tmp_path / "pictures"]
    tasks = {
        "m": ["classifier", classifier_file, "--labels", labels_file],
        "c": ["captioner", captioner_file, "--max-tokens", "9", "--vocab", words_file],
    }
    for name, task in tasks.items():
        result = CliRunner().invoke(app, [str(each) for each in (*task, "--name", name, *common)])
        assert result.exit_code == 0, result.output
        page = page_of(version(tmp_path / "models", name))
        assert "27 check pictures (15 typical, the others synthetic)" in page.text
    (tmp_path / "empty").mkdir()
    for folder, said in (("empty", "has no pictures"), ("nowhere", "is not a folder")):
        arguments = ["classifier", classifier_file, "--labels", labels_file, "--name", "n", *common[:-1]]
        refused = CliRunner().invoke(app, [str(each) for each in (*arguments, tmp_path / folder)])
        assert refused.exit_code == 2
        assert said in refused.stderr
