"""What a Triton configuration (config.pbtxt) declares of a model's graph, beside the settings that it gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Layout = Literal["", "NHWC", "NCHW"]


@dataclass(frozen=True)
class DeclaredTensor:
    """An input or output as clients see it.

    Attributes:
        name: The graph's name of it.
        datatype: As in the tensor protocol: "FP32", "BYTES".
        dims: Sizes without the batch axis, if the model has one; -1 for free sizes.
        reshape: The graph's sizes in place of `dims`, if they differ; free ones, -1, in the order of those in `dims`.
        layout: Order of the axes of a picture, for clients.
        optional: An input that requests may leave out.
        label_file: File of the names of an output's classes, for clients; "" for none.
        labels: Names of the classes of an output by index; "" for a class without a name.
        where: "config.pbtxt, line 3", for errors.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    layout: Layout = ""
    optional: bool = False
    label_file: str = ""
    labels: tuple[str, ...] = ()
    where: str = ""


@dataclass(frozen=True)
class WarmUpInput:
    """An input of a warm-up request: zeros, random numbers, or `content`, the bytes of a raw tensor.

    Attributes:
        datatype: As in the tensor protocol.
        dims: Sizes without the batch axis.
    """

    datatype: str
    dims: tuple[int, ...]
    kind: Literal["zeros", "random", "file"]
    content: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class WarmUp:
    """Requests that are run before the model serves.

    Attributes:
        name: For messages.
        batch_size: Rows of each; 0 for a model without a batch axis.
        count: Number of requests.
        inputs: By name.
        where: As in DeclaredTensor.
    """

    name: str
    batch_size: int
    count: int
    inputs: Mapping[str, WarmUpInput]
    where: str = ""


@dataclass(frozen=True)
class Declaration:
    """A model's configuration.

    Attributes:
        inputs: All of the graph's, in the order in which clients see them; empty to take the graph's.
        outputs: Those that are served, in this order; empty for all of the graph's.
        file: The ONNX file in a version's folder.
        files_by_capability: Other files by the compute capability of the GPU: {"7.5": "t4.onnx"}.
        warm_ups: Requests to run before the model serves.
        ignored: For each field that has none, its name, place and reason.
    """

    inputs: tuple[DeclaredTensor, ...] = ()
    outputs: tuple[DeclaredTensor, ...] = ()
    file: str = ""
    files_by_capability: Mapping[str, str] = field(default_factory=dict)
    warm_ups: tuple[WarmUp, ...] = ()
    ignored: tuple[str, ...] = ()

    def input(self, name: str) -> DeclaredTensor | None:
        """Return an input, if it is declared."""
        return next((each for each in self.inputs if each.name == name), None)

    def output(self, name: str) -> DeclaredTensor | None:
        """Return an output, if it is declared."""
        return next((each for each in self.outputs if each.name == name), None)
