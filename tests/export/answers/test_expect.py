"""`--expect`: the export gives the answers of the user's own model, or is refused."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from resonnx_export.answers import agreement
from resonnx_export.answers.agreement import Agreed
from resonnx_export.answers.recorded import read_answers
from resonnx_export.answers.search import Searched
from resonnx_export.errors import ParityFailed
from resonnx_export.proof.parity import damaged_copies
from resonnx_export.tasks.answers import require_answers
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, read_version
from typer.testing import Result

from .conftest import RecordAnswers, TryExport, resized


def changed(path: Path, folder: Path, **arrays: Any) -> Path:
    """Return a copy with other arrays; None removes one."""
    whole = {**np.load(path), **arrays}
    np.savez(folder / "answers.npz", **{name: value for name, value in whole.items() if value is not None})
    return folder / "answers.npz"


def test_answers_that_agree(exported: tuple[Result, Path]) -> None:
    result, folder = exported
    version = read_version(folder)
    assert version.manifest.verified_against == pb.REFERENCE_USER_ANSWERS
    (check,) = [check for check in version.manifest.parity.checks if check.name.startswith("your answers")]
    assert check.name == "your answers, 6 pictures recorded in float32 on cpu: logits"
    assert (check.pictures, check.identical) == (6, 6)
    assert check.bound == pytest.approx(1e-4 * check.max_abs_reference)
    assert "equal to your answers (6 pictures); 2 assumptions" in result.stdout
    assert "confirmed: channel-order rgb" in result.stdout
    cannot_tell = "your answers cannot tell it from 1e-06"
    assert f"assumed: bn-eps 1e-05; --assume bn-eps=VALUE (or 0.001, 1e-06); {cannot_tell}" in result.stdout
    (epsilon,) = [each for each in version.manifest.assumptions if each.name == "bn-eps"]
    assert not epsilon.confirmed
    assert cannot_tell.encode() in version.files["report.html"]
    assert "6 of 6 top classes the same" in result.stdout
    assert b"your answers, 6 pictures recorded" in version.files["report.html"]


def test_the_graph_is_what_must_give_the_answers(
    model: bytes, manifest: pb.Manifest, record_answers: RecordAnswers
) -> None:
    agreed = Agreed(read_answers(record_answers()), {}, ())
    with pytest.raises(ParityFailed, match="your answers"):
        require_answers({CLASSIFIER_FILE: next(damaged_copies(model))}, manifest, agreed)
    assert manifest.verified_against == pb.REFERENCE_OUR_READING


def test_the_users_code_stays_the_reference(model: bytes, manifest: pb.Manifest, record_answers: RecordAnswers) -> None:
    manifest = copy.deepcopy(manifest)
    manifest.verified_against = pb.REFERENCE_USER_CODE
    require_answers({CLASSIFIER_FILE: model}, manifest, Agreed(read_answers(record_answers()), {}, ()))
    assert manifest.verified_against == pb.REFERENCE_USER_CODE
    assert manifest.parity.checks


def test_what_was_not_computed_in_fp32_on_a_cpu_is_held_to_3e_3_and_equal_top_classes(
    try_export: TryExport, record_answers: RecordAnswers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The search takes 15 s where no reading agrees.
    monkeypatch.setattr(agreement, "search", lambda *_: Searched(None, None, tried=0, complete=True))
    answers = record_answers()
    logits = np.load(answers)["logits"]
    scale = np.abs(logits).max()
    nearly = logits + 2e-3 * scale * np.random.default_rng(0).choice([-1, 1], logits.shape).astype(np.float32)
    assert "bound 0.0001" in try_export(changed(answers, tmp_path, logits=nearly))
    unknown = try_export(changed(answers, tmp_path, device=None, dtype=None, logits=nearly))
    assert "bound 0.0001" in unknown
    assert "add device and dtype" in unknown
    assert "bound 0.003" in try_export(changed(answers, tmp_path, device="cuda", logits=logits + 4e-3 * scale))
    assert try_export(changed(answers, tmp_path, device="cuda", logits=nearly)) == "agreed"


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"pixels": np.zeros((6, 24, 32, 3), np.uint8)}, "pixels are 24x32 (height x width), and the network's input"),
        ({"logits": np.zeros((6, 9), np.float32)}, "logits has 9 classes, and the network 7"),
        ({"logits": np.full((6, 7), 1 / 7, np.float32)}, "probabilities"),
        ({"logits": None, "captions": ["a dog"] * 6}, "holds captions; a classifier is compared by its logits"),
        ({"logits": np.full((6, 7), np.nan)}, "42 of 42 values of logits are NaN"),
        ({"pixels": None, "images": [b"GIF89a"] * 6}, "picture 0 of images"),
    ],
)
def test_answers_to_other_questions(
    arrays: dict[str, Any], said: str, try_export: TryExport, record_answers: RecordAnswers, tmp_path: Path
) -> None:
    message = try_export(changed(record_answers(), tmp_path, **arrays))
    assert "answers.npz" in message
    assert said in message


def test_inputs_of_another_size_name_the_option(
    try_export: TryExport, record_answers: RecordAnswers, picture_files: list[bytes]
) -> None:
    answers = record_answers(resized(size=24), picture_files)
    assert "your preprocessing made inputs of 24x24, and the network's input is 32x32; export with --size 24, " in (
        try_export(answers)
    )


def test_answers_that_are_alike_prove_nothing(
    try_export: TryExport, record_answers: RecordAnswers, tmp_path: Path
) -> None:
    same = np.repeat(np.load(record_answers())["logits"][:1], 6, axis=0)
    assert "the logits of all pictures are alike" in try_export(changed(record_answers(), tmp_path, logits=same))
