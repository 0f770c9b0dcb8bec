"""What the tests of report.html share: a page taken apart, and pages of made-up predictions."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image
from resonnx_export.proof.predictions import (
    ClassifierPredictions,
    Comparison,
    Pictures,
    Predictions,
    predictions_differ,
)
from resonnx_export.report.page import Result, render_report
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import Golden
from resonnx_server.runtime.model_files.manifest import VersionFiles, read_version

VOID = {"meta", "img", "br", "line", "rect", "image", "use"}


@dataclass
class Element:
    """A tag with its attributes, and the text inside it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """A page taken apart; fails on tags that do not close in order."""

    content: str
    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.content)
        self.close()
        assert [each.tag for each in self.open] == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in VOID or (tag == "rect"):
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def all(self, tag: str, **attributes: str) -> Iterator[Element]:
        for element in self.elements:
            if element.tag == tag and all(element.attributes.get(name) == value for name, value in attributes.items()):
                yield element

    @property
    def text(self) -> str:
        return " ".join(next(self.all("body")).text.split())


def version(repository: Path, name: str) -> VersionFiles:
    return read_version(repository / name / "1")


def page_of(files: VersionFiles) -> Page:
    return Page(files.files["report.html"].decode())


def decoded(uri: str) -> np.ndarray:
    kind, _, content = uri.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def some_predictions(count: int, classes: int, seed: int = 0) -> ClassifierPredictions:
    rng = np.random.default_rng(seed)
    expected = rng.normal(size=(count, classes)).astype(np.float32)
    found = (expected + rng.normal(size=expected.shape) * 10.0 ** rng.uniform(-8, -4, expected.shape)).astype(
        np.float32
    )
    changed = predictions_differ(expected, found, pb.ClassifierSpec.ACTIVATION_SOFTMAX)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return ClassifierPredictions(Pictures(pixels, "held-back pictures", tuple(range(count))), expected, found, changed)


def rendered(predictions: ClassifierPredictions, manifest: pb.Manifest, *notes: str, name: str = "m") -> str:
    complete = pb.Manifest()
    complete.CopyFrom(manifest)
    complete.parity.checks.add(name="model.onnx, batch 1, optimised: logits", pictures=1, bound=1e-4, identical=1)
    return render(predictions, complete, 1e-3, *notes, name=name)


def render(
    predictions: Predictions,
    manifest: pb.Manifest,
    bound: float,
    *notes: str,
    name: str = "m",
    files: dict[str, bytes] | None = None,
) -> str:
    golden = Golden(predictions.pictures.pixels)
    return render_report(Result(files or {}, manifest, golden, Comparison(predictions, bound), notes), name, "1")
