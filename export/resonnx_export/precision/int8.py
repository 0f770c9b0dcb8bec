"""Quantises a graph's trunk to int8 with ONNX Runtime's tool: QDQ, uint8 activations, int8 weights by channel.

The fast kernels of the CPU provider (VNNI) and of OpenVINO support this format. The tool's default list of operators is
kept: without Relu in it, activations are not fused into convolutions, and int8 has a third of its speed with OpenVINO.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata
from resonnx_server.runtime.graphs import IMAGE
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.graphs.pixel_blocks import on_pixel_blocks
from resonnx_export.graphs.trace import finish
from resonnx_export.graphs.trunk import find_trunk

_BATCH: Final = 8
# ONNX Runtime 1.24, of onnxruntime-openvino, measures ranges anew for each graph.
_KEEPS_RANGES: Final = "calibration_cache_path" in signature(quantize_static).parameters


class Quantiser:
    """Quantises one float32 graph repeatedly, with other blocks left in floating point.

    Ranges of activations are measured from pictures uint8 [N,H,W,3], once if the tool can keep them. `folder` is for
    the tool's files.
    """

    def __init__(self, model: bytes, pictures: Pixels, folder: Path) -> None:
        proto = onnx.load_model_from_string(model)
        self._trunk = find_trunk(proto.graph)
        # The feature map itself stays in float32, at almost no cost: OpenVINO 2026.4 computes the mean of a quantised
        # and transposed map wrongly for more than one picture.
        inside = set(self._trunk.nodes) - set(self._trunk.tail)
        self._outside = [node.name for node in proto.graph.node if node.name not in inside]
        # The tool requires shape inference and folded BatchNorm, which the tracer has done.
        add_pre_process_metadata(proto)
        # As a file: the tool moves the weights of a model in memory to files and deletes these.
        self._model, self._ranges, self._output = (folder / name for name in ("model.onnx", "ranges.json", "int8.onnx"))
        onnx.save(proto, self._model)
        self._pictures = pictures

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks that can be left in floating point."""
        return tuple(self._trunk.blocks)

    def quantise(self, in_float: Collection[str] = ()) -> bytes:
        """Return the graph in int8, except for the blocks `in_float`. Same arguments, same bytes."""
        quantize_static(
            self._model,
            self._output,
            _Batches(self._pictures),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=False,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=self._outside + [name for block in in_float for name in self._trunk.blocks[block]],
            **({"calibration_cache_path": self._ranges} if _KEEPS_RANGES else {}),
        )
        # Afterwards, so that weights and ranges are quantised as those of the float32 graph.
        return finish(on_pixel_blocks(onnx.load(self._output)))


@contextmanager
def quantiser(model: bytes, pictures: Pixels) -> Iterator[Quantiser]:
    """Give a Quantiser, and delete its files afterwards."""
    with TemporaryDirectory() as folder:
        yield Quantiser(model, pictures, Path(folder))


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, pictures: Pixels) -> None:
        self._batches = iter(np.array_split(pictures, -(-len(pictures) // _BATCH)))

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._batches, None)
        return None if batch is None else {IMAGE: batch}
