"""Graphs of recurrent networks over frames: PyTorch's logits, whatever pads a clip, and frame by frame."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from resonnx_export.errors import ParityFailed
from resonnx_export.graphs.sequence import sequence_graph, step_graph
from resonnx_export.layouts.captioners.assumed import AXES
from resonnx_export.networks.heads import HeadLayer
from resonnx_export.networks.sequence import SequenceConfig
from resonnx_export.networks.video import RecurrentVideo, VideoConfig
from resonnx_export.proof.clips import LONGEST, SAME, prove_video
from resonnx_export.proof.parity import open_session
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.video.spec import SEQUENCE_FILE, STEP_FILE
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..conftest import seeded

SIZE, CLASSES = 8, 4
_HEAD = (HeadLayer(0, 7), HeadLayer(1, 7, "norm"), HeadLayer(3, CLASSES))
PLAIN = SequenceConfig(SIZE, "lstm", (6, 6), _HEAD)
_SCORES = (HeadLayer(0, 5), HeadLayer(2, 1))
CONFIGS = {
    "rnn": replace(PLAIN, cell="rnn"),
    "rnn with relu, both ways": replace(PLAIN, cell="rnn-relu", bidirectional=True, pooling="mean"),
    "gru with residual": replace(PLAIN, cell="gru", residual=True, pooling="max"),
    "lstm with residual": replace(PLAIN, residual=True),
    "lstm of two sizes": replace(PLAIN, hidden=(6, 5), pooling="mean", bias=False),
    "states of both ends": replace(PLAIN, cell="gru", bidirectional=True, pooling="states"),
    "backward state": replace(PLAIN, bidirectional=True, pooling="backward"),
    "last frame both ways": replace(PLAIN, bidirectional=True, residual=True),
    "maximum both ways": replace(PLAIN, bidirectional=True, pooling="max"),
    "attention": replace(PLAIN, pooling="attention", attention=_SCORES),
    "attention both ways": replace(PLAIN, bidirectional=True, pooling="attention", attention=(HeadLayer(0, 1),)),
}  # fmt: skip


def network_of(config: SequenceConfig, projection: Sequence[HeadLayer] = ()) -> RecurrentVideo:
    with seeded():
        given = VideoConfig(None, config, SIZE, tuple(projection), features_activation="tanh" if projection else "none")
        network = RecurrentVideo(given)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        return network.eval().requires_grad_(False)


def graphs_of(network: RecurrentVideo) -> tuple[dict[str, bytes], pb.Manifest]:
    files = {SEQUENCE_FILE: sequence_graph(network)}
    spec = pb.VideoClassifierSpec(labels=list("abcd"), feature_size=SIZE, max_frames=100)
    if not network.config.sequence.bidirectional:
        files[STEP_FILE], states = step_graph(network)
        spec.states.extend(states)
    return files, pb.Manifest(task=pb.TASK_VIDEO_CLASSIFIER, video_classifier=spec)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_graphs_give_pytorchs_logits_padded_and_frame_by_frame(config: SequenceConfig) -> None:
    network = network_of(config, [HeadLayer(0, SIZE), HeadLayer(1, SIZE, "norm")] if config.residual else ())
    files, manifest = graphs_of(network)
    report = prove_video(files, network, manifest).report
    same = [check for check in report.checks if check.bound <= SAME * check.max_abs_reference + 1e-6]
    assert [check.name.partition(",")[0] for check in same] == list(files)
    assert all(check.max_abs_difference <= check.bound for check in report.checks)


@pytest.mark.parametrize("changes", [{"pooling": "mean"}, {"residual": True}, {"head_activation": "none"}])
def test_graphs_of_another_reading_are_refused(changes: dict[str, object]) -> None:
    files, manifest = graphs_of(network_of(PLAIN))
    other = network_of(replace(PLAIN, **changes))  # type: ignore[arg-type]
    with pytest.raises(ParityFailed, match=r"sequence\.onnx, 1 clips .*: logits: max\|difference\|"):
        prove_video(files, other, manifest)


def test_a_step_of_other_states_is_refused() -> None:
    files, manifest = graphs_of(network_of(replace(PLAIN, pooling="mean")))
    network = network_of(replace(PLAIN, pooling="mean"))
    files[STEP_FILE] = graphs_of(network_of(replace(PLAIN, pooling="max")))[0][STEP_FILE]
    with pytest.raises(ParityFailed, match=r"step\.onnx, 7 clips after each of 12 frames"):
        prove_video(files, network, manifest)


@pytest.mark.parametrize("activation", AXES["head-activation"])
def test_activations_are_those_of_pytorch(activation: str) -> None:
    network = network_of(replace(PLAIN, head_activation=activation, pooled_activation=activation))
    files, manifest = graphs_of(network)
    assert prove_video({SEQUENCE_FILE: files[SEQUENCE_FILE]}, network, _without_states(manifest)).report.checks


def _without_states(manifest: pb.Manifest) -> pb.Manifest:
    changed = pb.Manifest()
    changed.CopyFrom(manifest)
    del changed.video_classifier.states[:]
    return changed


class _Packed(nn.Module):
    """As PyTorch itself reads clips of different lengths in one batch."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.gru = nn.GRU(SIZE, 6, 2, batch_first=True, bidirectional=True, dropout=0.4)
        self.fc = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        outputs, state = self.gru(packed)
        whole, _ = pad_packed_sequence(outputs, batch_first=True)
        if self.pooling == "mean":
            return self.fc(whole.sum(dim=1) / lengths[:, None])
        return self.fc(torch.cat([state[-2], state[-1]], dim=1))


@pytest.mark.parametrize("pooling", ["mean", "states"])
@pytest.mark.parametrize("padding", [0.0, 1e4, np.nan])
def test_clips_of_different_lengths_are_read_as_pytorchs_packed_ones(pooling: str, padding: float) -> None:
    with seeded():
        source = _Packed(pooling).eval()
    config = replace(
        PLAIN, cell="gru", bidirectional=True, pooling=pooling, head=(HeadLayer(0, CLASSES),)  # type: ignore[arg-type]
    )  # fmt: skip
    network = RecurrentVideo(VideoConfig(None, config, SIZE))
    theirs = source.state_dict()
    network.load_state_dict(
        {
            f"sequence.cells.{name[-1]}.{key}_l0{end}": theirs[f"gru.{key}_{name}{end}"]
            for name in ("l0", "l1")
            for end in ("", "_reverse")
            for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        | {f"sequence.head.0.{name}": theirs[f"fc.{name}"] for name in ("weight", "bias")}
    )
    rng = np.random.default_rng(1)
    lengths = np.array([1, 5, LONGEST, 2, 9], np.int64)
    features = rng.standard_normal((5, LONGEST, SIZE), np.float32)
    with torch.no_grad():
        expected = source(torch.from_numpy(features), torch.from_numpy(lengths)).numpy()
    for row, length in enumerate(lengths):
        features[row, length:] = padding
    session = open_session(sequence_graph(network.eval().requires_grad_(False)))
    found = session.run({"features": features, "lengths": lengths}, ["logits"])["logits"]
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
