"""The command video-classifier: from a source's files to a version that gives the source's logits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from resonnx_export.answers.recorded import read_answers
from resonnx_export.cli import app
from resonnx_export.pictures.recipe import image_input
from resonnx_export.precision.clips import ClipJudge
from resonnx_export.precision.judges import Judgement
from resonnx_export.proof.reference import normalise
from resonnx_export.verification import verify_version
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import parse_golden
from resonnx_server.runtime.model_files.manifest import GOLDEN, VersionFiles, onnx_files, read_version
from resonnx_server.runtime.session import CPU, Candidate, Session
from resonnx_server.runtime.video.clips import joined
from resonnx_server.runtime.video.graphs import VideoGraphs
from torch import nn
from typer.testing import CliRunner, Result

from ..layouts.video.sources import CLASSES, SIDE
from ..layouts.video.test_layouts import write
from ..pictures.test_clip_folders import write_clips

LABELS = tuple(f"move {i}" for i in range(CLASSES))
LENGTHS = (1, 6, 3, 4)


@dataclass(frozen=True)
class Recorded:
    """A source, its files, and the answers that its own code gives for clips of pixels or features."""

    source: nn.Module
    files: Sequence[Path]
    labels: Path
    clips: Sequence[np.ndarray]
    logits: np.ndarray

    def answers(self, path: Path) -> Path:
        """Write the answers, with other frames after the shorter clips."""
        name = "frames" if self.clips[0].dtype == np.uint8 else "features"
        longest = max(LENGTHS)
        frames = np.stack([np.concatenate([clip, clip[:1].repeat(longest - len(clip), 0)]) for clip in self.clips])
        np.savez(path, lengths=np.array(LENGTHS), logits=self.logits, **{name: frames})
        return path


def record(folder: Path, name: str) -> Recorded:
    source, files = write(folder, name)
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    rng = np.random.default_rng(3)
    given = name == "given features"
    clips = [
        rng.standard_normal((length, 6), np.float32)
        if given
        else rng.integers(0, 256, (length, SIDE, SIDE, 3), np.uint8)
        for length in LENGTHS
    ]
    recipe = image_input(SIDE, resize_short_side=None)
    with torch.no_grad():
        tensors = [torch.from_numpy(clip) if given else normalise(clip, recipe) for clip in clips]
        logits = torch.cat([source(tensor) for tensor in tensors]).numpy()
    return Recorded(source, files, folder / "labels.txt", clips, logits)


def export(folder: Path, recorded: Recorded, *options: object) -> Result:
    arguments = ["video-classifier", *recorded.files, "--labels", recorded.labels, "--repository", folder / "models"]
    return CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--name", "m", *options)])


def served_logits(version: VersionFiles, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the logits of whole clips, and frame by frame where there is a step."""
    sessions = {
        name: Session(version.files[name], Candidate(CPU, pb.PRECISION_FP32), 1)
        for name in onnx_files(version.manifest)
    }
    graphs = VideoGraphs(sessions, version.manifest)
    found = [graphs.run(joined(clips))]
    return found if graphs.stepper is None else [*found, graphs.run_stepwise(joined(clips))]


def test_a_video_classifier_in_two_files(tmp_path: Path) -> None:
    recorded = record(tmp_path, "video-crnn")
    answers = recorded.answers(tmp_path / "answers.npz")
    done = export(tmp_path, recorded, "--size", SIDE, "--frames", "uniform:8", "--max-frames", 64, "--expect", answers)
    assert done.exit_code == 0, done.output
    assert "your answers: 4 clips" in done.output
    assert "given: pooling last" in done.output or "confirmed: pooling last" in done.output
    folder = tmp_path / "models" / "m" / "1"
    version = read_version(folder)
    spec = version.manifest.video_classifier
    assert onnx_files(version.manifest) == ("encoder.onnx", "sequence.onnx", "step.onnx")
    assert (list(spec.labels), spec.feature_size, spec.max_frames) == (list(LABELS), 10, 64)
    assert (spec.sampling.rule, spec.sampling.n) == (pb.VideoClassifierSpec.Sampling.RULE_UNIFORM, 8)
    assert [(state.name, list(state.shape)) for state in spec.states] == [(f"state_{i}", [9]) for i in range(6)]
    for found in served_logits(version, recorded.clips):
        assert np.abs(found - recorded.logits).max() <= 1e-4 * np.abs(recorded.logits).max()
    golden = parse_golden(version.files[GOLDEN], version.manifest)
    assert golden.clips.lengths.tolist() == [1, 2, 5, 8]
    report = (folder / "report.html").read_text()
    assert "of this video_classifier" not in report
    assert "8 frames at equal distances; at most 64 of a clip" in report
    lines = list(verify_version(folder, recorded.files, None, None))
    assert any(line.startswith("  equal to PyTorch's") for line in lines), lines


def test_a_model_over_given_features(tmp_path: Path) -> None:
    recorded = record(tmp_path, "given features")
    done = export(tmp_path, recorded, "--assume", "pooling=last", "--expect", recorded.answers(tmp_path / "a.npz"))
    assert done.exit_code == 0, done.output
    version = read_version(tmp_path / "models" / "m" / "1")
    assert onnx_files(version.manifest) == ("sequence.onnx", "step.onnx")
    assert not version.manifest.HasField("input")
    for found in served_logits(version, recorded.clips):
        assert np.abs(found - recorded.logits).max() <= 1e-4 * np.abs(recorded.logits).max()
    lines = list(
        verify_version(tmp_path / "models" / "m" / "1", recorded.files, None, read_answers(tmp_path / "a.npz"))
    )
    assert any(line.startswith("  equal to PyTorch's") for line in lines), lines
    assert any("4 of 4 top classes the same" in line for line in lines), lines
    refused = export(tmp_path, recorded, "--assume", "pooling=last", "--size", 32)
    assert "the network reads features, not pictures: leave out the options of size" in refused.output


def test_answers_name_the_reading_that_gives_them(tmp_path: Path) -> None:
    recorded = record(tmp_path, "given features")
    answers = recorded.answers(tmp_path / "answers.npz")
    done = export(tmp_path, recorded, "--assume", "pooling=mean", "--expect", answers)
    assert done.exit_code == 1
    assert "with --assume pooling=last it does" in done.output
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_the_encoder_in_int8_is_judged_by_the_labels_of_clips(tmp_path: Path) -> None:
    recorded = record(tmp_path, "video-crnn")
    clips = write_clips(tmp_path / "clips", 16)
    options = ("--size", SIDE, "--precision", "int8", "--calibration", clips, "--min-agreement", 50)
    done = export(tmp_path, recorded, *options)
    assert done.exit_code == 0, done.output
    assert "int8: 8 of 8 held-back clips predicted as in fp32" in done.output
    folder = tmp_path / "models" / "m" / "1"
    version = read_version(folder)
    assert dict(version.manifest.stored) == {"encoder.onnx": pb.PRECISION_INT8}
    (agreement,) = version.manifest.parity.agreements
    assert (agreement.asked, agreement.pictures) == ("held-back clips", 8)
    golden = parse_golden(version.files[GOLDEN], version.manifest)
    assert golden.clips.lengths.tolist() == [8] * 4
    lines = list(verify_version(folder, recorded.files, None, None))
    assert any("encoder.onnx in int8 against PyTorch" in line for line in lines), lines
    refused = export(tmp_path, recorded, "--precision", "int8")
    assert "--precision int8 and fastest go with --calibration" in refused.output


def test_int8_beyond_its_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips whose labels change: with the encoder's features replaced by noise."""
    recorded = record(tmp_path, "video-crnn")
    judged = ClipJudge.__call__

    def unlike(judge: ClipJudge, model: bytes) -> Judgement:
        found = judged(judge, model)
        predictions = replace(found.predictions, changed=~found.predictions.changed)
        return replace(found, predictions=predictions)

    monkeypatch.setattr(ClipJudge, "__call__", unlike)
    clips = write_clips(tmp_path / "clips", 8, 2)
    done = export(tmp_path, recorded, "--size", SIDE, "--precision", "int8", "--calibration", clips)
    assert done.exit_code == 1
    assert "0 of 4 held-back clips have float32's prediction" in done.output
    assert not (tmp_path / "models").exists()


REFUSED = {
    "give --labels FILE": ((), {"labels": None}),
    "gives 2 labels for 5 classes": ((), {"labels": "a\nb\n"}),
    "--frames 'half' is none of all, every:N": (("--frames", "half"), {}),
    "--assume pooling=VALUE, of last, mean, max": ((), {"assume": False}),
}


@pytest.mark.parametrize("said", REFUSED)
def test_wrong_options_are_refused(said: str, tmp_path: Path) -> None:
    options, changes = REFUSED[said]
    recorded = record(tmp_path, "given features")
    if changes.get("labels"):
        recorded.labels.write_text(str(changes["labels"]))
    given = ["video-classifier", *recorded.files, "--repository", tmp_path / "models", "--name", "m", *options]
    given += [] if "labels" in changes and changes["labels"] is None else ["--labels", recorded.labels]
    given += [] if changes.get("assume") is False else ["--assume", "pooling=last"]
    done = CliRunner().invoke(app, [str(each) for each in given])
    assert done.exit_code == 2
    assert said in done.output
