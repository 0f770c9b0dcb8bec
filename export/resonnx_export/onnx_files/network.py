"""An ONNX file as a network of the exporter: run by ONNX Runtime as it is, with its own batch size."""

import numpy as np
import onnx
import torch
from resonnx_server.runtime.session import Session
from torch import Tensor, nn

from resonnx_export.graphs.class_activation import NotExact, find_head
from resonnx_export.networks.feature_maps import Fits
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.onnx_files.form import Form
from resonnx_export.onnx_files.reading import OnnxFile
from resonnx_export.proof.parity import open_session

_ROWS = 2
_SEED = 3002


class OnnxNetwork(ClassifierNetwork):
    """Maps normalised pictures [N,C,H,W] to logits by the file's own graph.

    Args:
        file: The file.
        form: Its parts.
        size: Height and width of pictures.
    """

    def __init__(self, file: OnnxFile, form: Form, size: tuple[int, int]) -> None:
        super().__init__()
        self.form, self.file = form, file
        self._map = _feature_map(file, form)
        self._session = _with_outputs(file, form, self._map)
        self.in_channels = form.channels
        # Shapes only: the weights are ONNX Runtime's.
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(tuple(tensor.dims), device="meta"), requires_grad=False)
            for tensor in file.model.graph.initializer
            if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        )
        features, logits = self.outputs(torch.zeros(form.batch or 1, form.channels, *size))
        self.feature_size, self.num_classes = features.shape[1], logits.shape[1]

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [N,D] and logits [N,K] for normalised pictures [N,C,H,W]."""
        form = self.form
        answers = self.answers(x.numpy())
        features, logits = (answers[name].reshape(len(x), -1) for name in (form.features or form.logits, form.logits))
        return torch.from_numpy(features).float(), torch.from_numpy(logits).float()

    def feature_map(self, x: Tensor, shape: tuple[int, ...], fits: Fits) -> Tensor | None:
        """Return the file's own feature map, if there is one that `fits`."""
        if self._map is None:
            return None
        answers = self.answers(x.numpy(), self._map)
        found, logits = (torch.from_numpy(answers[name]).float() for name in (self._map, self.form.logits))
        return found if found.shape[1:] == shape and fits(found, logits.flatten(1)) else None

    def answers(self, x: np.ndarray, *more: str) -> dict[str, np.ndarray]:
        """Return features, logits and the classes' output by name, as the graph has them, for pictures [N,C,H,W].

        `more` are names of further tensors that are outputs.
        """
        form = self.form
        array, step = form.given(x), form.batch or len(x)
        # A fixed batch is filled with the first rows.
        padded = np.resize(array, (-(-len(array) // step) * step, *array.shape[1:]))
        names = list(dict.fromkeys([form.features or form.logits, form.logits, form.output, *more]))
        parts = [self._session.run({form.input: padded[i : i + step]}, names) for i in range(0, len(padded), step)]
        return {name: np.concatenate([part[name] for part in parts])[: len(x)] for name in names}

    def ends_as_found(self, size: tuple[int, int]) -> bool:
        """Return whether the activation that was found gives the output: shapes between them may group the classes."""
        form = self.form
        if form.activation is None:
            return True
        noise = np.random.default_rng(_SEED).standard_normal((form.batch or _ROWS, form.channels, *size))
        found = self.answers(noise.astype(np.float32))
        logits, output = (torch.from_numpy(found[name]).flatten(1) for name in (form.logits, form.output))
        ends = [torch.sigmoid(logits)]
        if form.activation == "softmax":
            ends = [torch.softmax(logits, 1), torch.log_softmax(logits, 1)]
        return any(end.shape == output.shape and torch.allclose(end, output, 1e-3, 1e-5) for end in ends)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last linear layer's input [N,D]."""
        return self.outputs(x)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N,K]."""
        return self.outputs(x)[1]


def _feature_map(file: OnnxFile, form: Form) -> str | None:
    """Return the name of the last feature map, if class activation maps of it are exact."""
    try:
        return find_head(file.model, form.logits).feature_map
    except NotExact:
        return None


def _with_outputs(file: OnnxFile, form: Form, feature_map: str | None) -> Session:
    """Open the file with logits, features and feature map as outputs, if they are none."""
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    present = {output.name for output in model.graph.output}
    for name in (form.logits, form.features, feature_map):
        if name is not None and name not in present:
            model.graph.output.add(name=name)
            present.add(name)
    return open_session(model.SerializeToString())
