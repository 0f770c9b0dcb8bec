"""A small video classifier as a version's files: pictures of 4x4 -> 6 features, an LSTM over them -> 5 classes."""

import io
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from resonnx_export.graphs.sequence import sequence_graph, step_graph
from resonnx_export.networks.heads import HeadLayer
from resonnx_export.networks.sequence import SequenceConfig
from resonnx_export.networks.video import RecurrentVideo, VideoConfig
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import Golden, dump_golden
from resonnx_server.runtime.model_files.manifest import GOLDEN, MANIFEST, SUMS, VersionFiles, dump_manifest, sha256sums
from resonnx_server.runtime.session import CPU, Candidate, Session
from resonnx_server.runtime.video.clips import Clips, Float, joined
from resonnx_server.runtime.video.graphs import VideoGraphs

SIDE, FEATURES, CLASSES, MAX_FRAMES = 4, 6, 5, 64
LABELS = ["left", "right", "up", "down", "still"]
_FP32 = pb.PRECISION_FP32


def clip(frames: int, seed: int = 0) -> np.ndarray:
    """Return a clip uint8 [frames,4,4,3]."""
    return np.random.default_rng(1000 * seed + frames).integers(0, 256, (frames, SIDE, SIDE, 3), dtype=np.uint8)


def gif(frames: np.ndarray) -> bytes:
    """Return a clip as an animated GIF, 25 frames a second, with a palette for each frame: no pixel changes."""
    pictures = [Image.fromarray(frame).quantize(256) for frame in frames]
    written = io.BytesIO()
    pictures[0].save(written, "GIF", save_all=True, append_images=pictures[1:], duration=40, disposal=1)
    return written.getvalue()


def files(*, bidirectional: bool = False, given: bool = False, seed: int = 5) -> VersionFiles:
    """Return a version; with `bidirectional` without a step, with `given` without an encoder."""
    torch.manual_seed(seed)
    head = (HeadLayer(8 * (1 + bidirectional), CLASSES),)
    sequence = SequenceConfig(FEATURES, "lstm", (8,), head, bidirectional=bidirectional, pooling="states")
    network = RecurrentVideo(VideoConfig(None, sequence, given_size=FEATURES)).eval()
    graphs = {"sequence.onnx": sequence_graph(network)}
    spec = pb.VideoClassifierSpec(
        labels=LABELS,
        activation=pb.ClassifierSpec.ACTIVATION_SOFTMAX,
        feature_size=FEATURES,
        sampling=pb.VideoClassifierSpec.Sampling(rule=pb.VideoClassifierSpec.Sampling.RULE_ALL),
        max_frames=MAX_FRAMES,
    )
    if not bidirectional:
        graphs["step.onnx"], states = step_graph(network)
        spec.states.extend(states)
    manifest = pb.Manifest(schema_version=1, task=pb.TASK_VIDEO_CLASSIFIER, video_classifier=spec)
    if not given:
        graphs["encoder.onnx"] = _encoder(seed)
        manifest.input.CopyFrom(
            pb.ImageInput(
                width=SIDE,
                height=SIDE,
                resize=pb.ImageInput.RESIZE_STRETCH,
                filter=pb.ImageInput.FILTER_BILINEAR,
                mean=[0, 0, 0],
                std=[1, 1, 1],
            )
        )
    for name in graphs:
        manifest.precisions.add(file=name, precision=_FP32, max_deviation=1e-3)
    return VersionFiles("identity", graphs, manifest)


def graphs_of(version: VersionFiles) -> VideoGraphs:
    """Return the graphs of a version, on the CPU."""
    sessions = {name: Session(version.files[name], Candidate(CPU, _FP32), 1) for name in version.files}
    return VideoGraphs(sessions, version.manifest)


def logits_of(version: VersionFiles, frames: np.ndarray) -> Float:
    """Return the logits float32 [K] of one clip alone: of pictures, or of given features."""
    return graphs_of(version).run(joined([frames]))[0]


def golden(version: VersionFiles) -> Golden:
    """Return golden clips of a version."""
    clips = [clip(frames) for frames in (3, 1, 6)]
    if not version.manifest.HasField("input"):
        features = [
            np.random.default_rng(len(each)).standard_normal((len(each), FEATURES), np.float32) for each in clips
        ]
        whole = joined(features)
        nothing = np.zeros((0, 0, 0, 3), np.uint8)
        return Golden(nothing, _logits(version, whole), lengths=whole.lengths, features=whole.frames)
    whole = joined(clips)
    return Golden(whole.frames, _logits(version, whole), lengths=whole.lengths)


def write(folder: Path, version: VersionFiles) -> None:
    """Write a version into its folder, NAME/NUMBER, as the exporter does."""
    content = {
        **version.files,
        GOLDEN: dump_golden(golden(version)),
        MANIFEST: dump_manifest(version.manifest),
    }
    folder.mkdir(parents=True)
    for name, each in {**content, SUMS: sha256sums(content)}.items():
        (folder / name).write_bytes(each)


def _logits(version: VersionFiles, clips: Clips) -> Float:
    return graphs_of(version).run(clips)


def _encoder(seed: int) -> bytes:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIDE, SIDE, 3])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", FEATURES])
    weights = np.random.default_rng(seed).normal(0, 0.002, (SIDE * SIDE * 3, FEATURES)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["features"]),
    ]
    constants = {"flat": np.array([-1, SIDE * SIDE * 3]), "weights": weights}
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "encoder", [image], [features], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
