"""The demo captioner's words: ONNX Runtime against PyTorch on 500 fresh held-out scenes, token by token."""

from pathlib import Path

import numpy as np
import torch
from resonnx_export.demo import WEIGHTS, samples
from resonnx_export.demo.train import SCENES_CONFIG
from resonnx_export.networks.captioner import Captioner
from resonnx_export.networks.detect import load_strict
from resonnx_export.proof import reference
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, ENCODER_FILE, read_version
from resonnx_server.runtime.session import CPU, Candidate, Session
from safetensors.torch import load_file

PICTURES, BATCH = 500, 20


def test_identical_tokens_on_500_scenes(demo_repository: Path) -> None:
    version = read_version(demo_repository / "scenes" / "1")
    candidate = Candidate(CPU, pb.PRECISION_FP32)
    sessions = [Session(version.files[file], candidate, 2) for file in (ENCODER_FILE, DECODER_FILE)]
    graphs = CaptionerGraphs(*sessions, version.manifest)
    network = Captioner(SCENES_CONFIG)
    load_strict(network, load_file(WEIGHTS / "scenes.safetensors"))
    network.eval()
    spec = version.manifest.captioner
    pictures = np.stack([scene.image for scene in samples.scenes(99, PICTURES)])
    for start in range(0, PICTURES, BATCH):
        batch = pictures[start : start + BATCH]
        with torch.no_grad():
            expected = reference.caption(network, reference.encode(network, batch, version.manifest.input), spec)
        found = decode_all(graphs, batch, spec)
        for theirs, ours in zip(expected, found, strict=True):
            assert [token.id for token in ours.tokens] == theirs.tokens.tolist()
