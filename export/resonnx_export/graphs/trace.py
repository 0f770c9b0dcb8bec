"""Traces networks to ONNX graphs that runtime/graphs.py accepts, with normalisation inside and reproducible bytes."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import onnx
import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.graphs import CLASSIFIER_OUTPUTS, IMAGE
from resonnx_server.runtime.model_files.manifest import DECODER_TOP_K
from resonnx_server.runtime.video.graphs import FEATURES, LENGTHS, LOGITS
from torch import Tensor, nn

from resonnx_export.errors import BadInput, ParityFailed
from resonnx_export.graphs.padding_taps import without_padding_taps
from resonnx_export.networks.protocol import CaptionNetwork, Encoded
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.networks.video import StepwiseVideo, VideoNetwork

Activation = pb.ClassifierSpec.Activation
# torch's default; later ones do not improve these networks, and fewer runtimes support them.
OPSET: Final = 18
# A protobuf message is limited to 2 GiB, including the graph itself.
_MAX_WEIGHT_BYTES: Final = 2_000_000_000
# The tracer could take a batch size of one for a constant.
_EXAMPLE_ROWS: Final = 2
_EXAMPLE_FRAMES: Final = 3


class _Normalise(nn.Module):
    """uint8 [N,H,W,3], RGB -> normalised float32 [N,3,H,W], in the network's channel order."""

    scale: Tensor
    shift: Tensor
    order: Tensor | None

    def __init__(self, recipe: pb.ImageInput) -> None:
        super().__init__()
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (recipe.mean, recipe.std))
        # A row for each channel: where ONNX Runtime multiplies pixels with their channels side by side, as before
        # convolutions in int8, three values would be broadcast pixel by pixel (8 % of an int8 ResNet-50's time).
        self.register_buffer("scale", (1 / (_divisor(recipe) * std)).float().view(3, 1, 1).repeat(1, 1, recipe.width))
        self.register_buffer("shift", (-mean / std).float().view(3, 1, 1).repeat(1, 1, recipe.width))
        reversed_order = recipe.channel_order == pb.ImageInput.CHANNEL_ORDER_BGR
        self.register_buffer("order", torch.tensor([2, 1, 0]) if reversed_order else None)

    def forward(self, image: Tensor) -> Tensor:
        # Transposed first: this moves bytes, not floats, and ONNX Runtime's CPU provider multiplies much faster by
        # factors that are constant over a plane (saves 2 ms per picture at 224x224).
        planes = image.permute(0, 3, 1, 2)
        if self.order is not None:
            planes = planes.index_select(1, self.order)
        return planes.to(torch.float32) * self.scale + self.shift


def _divisor(recipe: pb.ImageInput) -> int:
    """Return the divisor of pixels before the mean is subtracted."""
    return 1 if recipe.pixel_scale == 255 else 255


class _NormaliseGrey(nn.Module):
    """uint8 [N,H,W,3] -> Pillow's convert("L") -> normalised float32 [N,1,H,W].

    Pillow sums in 16-bit fixed point, which float32 represents exactly below 2^24. Pictures were resized in RGB;
    sources that convert to grey first differ by rounding, by up to 3 of 255 in coloured noise.
    """

    weights: Tensor

    def __init__(self, recipe: pb.ImageInput) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor([19595.0, 38470.0, 7471.0]))
        self.scale, self.shift = 1 / (_divisor(recipe) * recipe.std[0]), -recipe.mean[0] / recipe.std[0]

    def forward(self, image: Tensor) -> Tensor:
        grey = torch.floor(((image.to(torch.float32) * self.weights).sum(dim=3, keepdim=True) + 32768) / 65536)
        return (grey * self.scale + self.shift).permute(0, 3, 1, 2)


class _Classifier(nn.Module):
    def __init__(self, network: ClassifierNetwork, recipe: pb.ImageInput, activation: Activation) -> None:
        super().__init__()
        self.normalise = _NormaliseGrey(recipe) if network.in_channels == 1 else _Normalise(recipe)
        self.network, self.activation = network, activation

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.network.forward_features(self.normalise(image))
        logits = self.network.fc(features)
        if self.activation == pb.ClassifierSpec.ACTIVATION_SIGMOID:
            return torch.sigmoid(logits), logits, features
        if self.activation == pb.ClassifierSpec.ACTIVATION_NONE:
            return logits.clone(), logits, features
        return torch.softmax(logits, dim=1), logits, features


class _Encoder(nn.Module):
    def __init__(self, network: CaptionNetwork, recipe: pb.ImageInput) -> None:
        super().__init__()
        self.normalise, self.network = _Normalise(recipe), network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        state, features, first_log_probs = self.network.encode(self.normalise(image))
        return *state, *features, *_present(first_log_probs)


class _FrameEncoder(nn.Module):
    def __init__(self, network: VideoNetwork, recipe: pb.ImageInput) -> None:
        super().__init__()
        self.normalise = _NormaliseGrey(recipe) if network.in_channels == 1 else _Normalise(recipe)
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network.encode(self.normalise(image))


class _Clips(nn.Module):
    def __init__(self, network: VideoNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, *lengths: Tensor) -> Tensor:
        return self.network.classify(features, lengths[0])


class _Frame(nn.Module):
    def __init__(self, network: StepwiseVideo) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, following = self.network.step(features, state)
        return logits, *following


class _Decoder(nn.Module):
    def __init__(self, network: CaptionNetwork, states: int) -> None:
        super().__init__()
        self.network, self.states = network, states
        self.top_k = min(DECODER_TOP_K, network.vocabulary_size)

    def forward(self, token: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        stepped = self.network.step(token, inputs[: self.states], inputs[self.states :])
        top_log_probs, top_ids = torch.topk(stepped.log_probs, self.top_k)
        return stepped.log_probs, top_log_probs, top_ids, *stepped.state, *_present(stepped.attention)


def _present(output: Tensor | None) -> tuple[Tensor, ...]:
    return () if output is None else (output,)


def trace_classifier(
    network: ClassifierNetwork,
    recipe: pb.ImageInput,
    activation: Activation = pb.ClassifierSpec.ACTIVATION_SOFTMAX,
) -> bytes:
    """Return model.onnx: image uint8 [batch,H,W,3] -> probabilities (by `activation`), logits, features.

    Raises:
        BadInput: The network is too large for one ONNX file.
    """
    module = _Classifier(network, recipe, activation)
    return _export(module, {IMAGE: _example_image(recipe)}, CLASSIFIER_OUTPUTS, "batch")


def trace_encoder(network: CaptionNetwork, recipe: pb.ImageInput) -> bytes:
    """Return encoder.onnx: image uint8 [batch,H,W,3] -> state_i, feature_j, and first_log_probs if the network has it.

    Raises as trace_classifier.
    """
    encoded = _example_encoded(network, recipe)
    names = [*encoded.named(), *(() if encoded.first_log_probs is None else ("first_log_probs",))]
    return _export(_Encoder(network, recipe), {IMAGE: _example_image(recipe)}, names, "batch")


def trace_frame_encoder(network: VideoNetwork, recipe: pb.ImageInput) -> bytes:
    """Return encoder.onnx of a video classifier: image uint8 [batch,H,W,3] -> features. Raises as trace_classifier."""
    return _export(_FrameEncoder(network, recipe), {IMAGE: _example_image(recipe)}, [FEATURES], "batch")


def trace_clips(network: VideoNetwork) -> bytes:
    """Return sequence.onnx of a user's video classifier: features [clips,frames,D], lengths -> logits."""
    inputs = {
        FEATURES: torch.zeros(_EXAMPLE_ROWS, _EXAMPLE_FRAMES, network.feature_size),
        LENGTHS: torch.full((_EXAMPLE_ROWS,), _EXAMPLE_FRAMES),
    }
    return _export(_Clips(network), inputs, [LOGITS], "clips", "frames")


def trace_frame(network: StepwiseVideo) -> bytes:
    """Return step.onnx of a user's video classifier: features [clips,D], state_i -> logits, next_state_i."""
    inputs = {FEATURES: torch.zeros(_EXAMPLE_ROWS, network.feature_size)}
    inputs |= {f"state_{i}": torch.zeros(_EXAMPLE_ROWS, size) for i, size in enumerate(network.states)}
    outputs = [LOGITS, *(f"next_state_{i}" for i in range(len(network.states)))]
    return _export(_Frame(network), inputs, outputs, "clips")


def trace_decoder(network: CaptionNetwork, recipe: pb.ImageInput) -> bytes:
    """Return decoder.onnx: token int64 [rows] and the encoder's outputs -> one step. Raises as trace_classifier."""
    encoded = _example_encoded(network, recipe)
    states = len(encoded.state)
    inputs = {"token": torch.zeros(_EXAMPLE_ROWS, dtype=torch.int64), **encoded.named()}
    outputs = ["log_probs", "top_log_probs", "top_ids", *(f"next_state_{i}" for i in range(states))]
    if network.attention_grid(recipe.height, recipe.width) != (0, 0):
        outputs.append("attention")
    return _export(_Decoder(network, states), inputs, outputs, "rows")


def _example_image(recipe: pb.ImageInput) -> Tensor:
    return torch.zeros(_EXAMPLE_ROWS, recipe.height, recipe.width, 3, dtype=torch.uint8)


@torch.no_grad()
def _example_encoded(network: CaptionNetwork, recipe: pb.ImageInput) -> Encoded:
    return network.encode(torch.zeros(_EXAMPLE_ROWS, 3, recipe.height, recipe.width))


def _export(module: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], rows: str, second: str = "") -> bytes:
    """Return the graph of `module` with axis 0 of every tensor dynamic and named `rows`.

    `second` is the name of axis 1 of the first input, if that is dynamic as well.
    """
    weights = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    if weights > _MAX_WEIGHT_BYTES:
        raise BadInput(f"the network has {weights / 1e9:.1f} GB of weights; an ONNX file holds at most 2 GB")
    return finish(without_padding_taps(_traced(module, inputs, outputs, rows, second)))


def _traced(
    module: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], rows: str, second: str
) -> onnx.ModelProto:
    first, *rest = ({0: rows} for _ in inputs)
    if second:
        first[1] = second
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            # All inputs of the decoder after the token are one variadic parameter.
            dynamic_shapes=(first, tuple(rest)) if rest else (first,),
            dynamo=True,
            optimize=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def finish(model: onnx.ModelProto) -> bytes:
    """Strip, check and serialise a graph. Raises ParityFailed if it is not valid ONNX."""
    _strip(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ParityFailed(f"the exported graph is not valid ONNX: {str(error).splitlines()[0]}") from None
    return model.SerializeToString(deterministic=True)


def _strip(model: onnx.ModelProto) -> None:
    """Remove debugging notes of tools, such as stack traces with local paths."""
    del model.metadata_props[:]
    model.ClearField("doc_string")
    graph = model.graph
    graph.ClearField("doc_string")
    del graph.metadata_props[:]
    # Runtimes infer the types of inner tensors.
    del graph.value_info[:]
    for entries in (graph.node, graph.initializer, graph.input, graph.output):
        for entry in entries:
            del entry.metadata_props[:]
            entry.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporter (torchvision is not installed, deprecations inside torch)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
