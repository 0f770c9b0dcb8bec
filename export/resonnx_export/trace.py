"""Turns networks into ONNX graphs that keep the contracts on disk (DESIGN section 3), with reproducible bytes.

Pixels are cast, scaled and transposed in the graph, so no client can normalise differently.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import onnx
import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.graphs import CLASSIFIER_OUTPUTS, IMAGE
from resonnx_server.runtime.manifest import DECODER_TOP_K
from torch import Tensor, nn

from resonnx_export.errors import BadInput, ParityFailed
from resonnx_export.networks import Captioner, Encoded, ResNet

# The exporter's own; later ones bring these networks nothing, and fewer runtimes and tools know them.
OPSET: Final = 18
# A protobuf message ends at 2 GiB; this leaves room for the graph itself.
_MAX_WEIGHT_BYTES: Final = 2_000_000_000
# One row could be taken for a constant by the tracer.
_EXAMPLE_ROWS: Final = 2


class _Normalise(nn.Module):
    """uint8 [N,H,W,3] -> normalised float32 [N,3,H,W]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, recipe: pb.ImageInput) -> None:
        super().__init__()
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (recipe.mean, recipe.std))
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, image: Tensor) -> Tensor:
        return (image.to(torch.float32) * self.scale + self.shift).permute(0, 3, 1, 2)


class _Classifier(nn.Module):
    def __init__(self, network: ResNet, recipe: pb.ImageInput) -> None:
        super().__init__()
        self.normalise, self.network = _Normalise(recipe), network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        # As a mean: adaptive_avg_pool2d becomes a Gather over computed indices.
        features = self.network.features_map(self.normalise(image)).mean(dim=(2, 3))
        logits = self.network.fc(features)
        return torch.softmax(logits, dim=1), logits, features


class _Encoder(nn.Module):
    def __init__(self, network: Captioner, recipe: pb.ImageInput) -> None:
        super().__init__()
        self.normalise, self.network = _Normalise(recipe), network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        state, features = self.network.encode(self.normalise(image))
        return *state, *features


class _Decoder(nn.Module):
    def __init__(self, network: Captioner, states: int) -> None:
        super().__init__()
        self.network, self.states = network, states
        self.top_k = min(DECODER_TOP_K, network.config.vocabulary_size)

    def forward(self, token: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        stepped = self.network.step(token, inputs[: self.states], inputs[self.states :])
        top_log_probs, top_ids = torch.topk(stepped.log_probs, self.top_k)
        return stepped.log_probs, top_log_probs, top_ids, *stepped.state, stepped.attention


def trace_classifier(network: ResNet, recipe: pb.ImageInput) -> bytes:
    """Return model.onnx: image uint8 [batch,H,W,3] -> probabilities, logits, features.

    Raises:
        BadInput: The network is too large for one ONNX file.
    """
    return _export(_Classifier(network, recipe), {IMAGE: _example_image(recipe)}, CLASSIFIER_OUTPUTS, "batch")


def trace_encoder(network: Captioner, recipe: pb.ImageInput) -> bytes:
    """Return encoder.onnx: image uint8 [batch,H,W,3] -> state_i, feature_j. Raises as trace_classifier."""
    wrapped = _Encoder(network, recipe)
    names = _encoded_names(_example_encoded(network, recipe))
    return _export(wrapped, {IMAGE: _example_image(recipe)}, names, "batch")


def trace_decoder(network: Captioner, recipe: pb.ImageInput) -> bytes:
    """Return decoder.onnx: token int64 [rows] and the encoder's outputs -> one step. Raises as trace_classifier."""
    encoded = _example_encoded(network, recipe)
    names = _encoded_names(encoded)
    states = len(encoded.state)
    inputs = {
        "token": torch.zeros(_EXAMPLE_ROWS, dtype=torch.int64),
        **dict(zip(names, (*encoded.state, *encoded.features), strict=True)),
    }
    next_names = (f"next_{name}" for name in names[:states])
    outputs = ("log_probs", "top_log_probs", "top_ids", *next_names, "attention")
    return _export(_Decoder(network, states), inputs, outputs, "rows")


def _example_image(recipe: pb.ImageInput) -> Tensor:
    return torch.zeros(_EXAMPLE_ROWS, recipe.height, recipe.width, 3, dtype=torch.uint8)


@torch.no_grad()
def _example_encoded(network: Captioner, recipe: pb.ImageInput) -> Encoded:
    return network.encode(torch.zeros(_EXAMPLE_ROWS, 3, recipe.height, recipe.width))


def _encoded_names(encoded: Encoded) -> list[str]:
    return [f"state_{i}" for i in range(len(encoded.state))] + [f"feature_{j}" for j in range(len(encoded.features))]


def _export(module: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], rows: str) -> bytes:
    """Trace `module` with axis 0 of every tensor dynamic and named `rows`."""
    weights = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    if weights > _MAX_WEIGHT_BYTES:
        raise BadInput(f"the network has {weights / 1e9:.1f} GB of weights; an ONNX file holds at most 2 GB")
    first, *rest = ({0: rows} for _ in inputs)
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            # The decoder's inputs after the token are one variadic parameter.
            dynamic_shapes=(first, tuple(rest)) if rest else (first,),
            dynamo=True,
            optimize=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ParityFailed(f"the exported graph is not valid ONNX: {str(error).splitlines()[0]}") from None
    return model.SerializeToString(deterministic=True)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the tracer notes for debugging: stack traces with local paths, which also differ by machine."""
    del model.metadata_props[:]
    model.ClearField("doc_string")
    graph = model.graph
    graph.ClearField("doc_string")
    del graph.metadata_props[:]
    # Types of inner tensors are inferred again by every runtime.
    del graph.value_info[:]
    for entries in (graph.node, graph.initializer, graph.input, graph.output):
        for entry in entries:
            del entry.metadata_props[:]
            entry.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's own notes (torchvision is not installed, deprecations inside torch)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
