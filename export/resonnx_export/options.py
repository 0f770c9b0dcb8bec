"""The options that several commands share, and `grouped`, which lets a command take them as dataclasses."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from resonnx_export import __version__
from resonnx_export.errors import BadInput

Activation = Literal["softmax", "sigmoid", "none"]
Precision = Literal["fp32", "fp16", "int8"]
WantedPrecision = Literal["fp32", "fp16", "int8", "fastest"]
DecoderPrecision = Literal["fp32", "int8-rescored"]


@dataclass(frozen=True)
class Target:
    """Where an export goes."""

    repository: Annotated[Path, typer.Option(metavar="FOLDER", help="The model repository; made if it does not exist.")]
    name: Annotated[str, typer.Option(metavar="NAME", help="The model's name in the repository.")]
    version: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Version number.  [default: the next free one]")
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the version if it exists.")] = False


StoredPrecision = Annotated[
    Precision, typer.Option("--precision", help="Precision of the convolutions, weights and arithmetic.")
]


@dataclass(frozen=True)
class Quantisation:
    """The precision of the convolutions, and the settings of int8."""

    precision: Annotated[
        WantedPrecision,
        typer.Option(
            help="Precision of the convolutions, weights and arithmetic. fastest: int8 if it is within its limits and "
            "measured to be faster on this machine's CPU, otherwise fp32.",
        ),
    ] = "fp32"
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="For int8 and fastest: typical pictures, at least 8, better 64 or more; a classifier's may be in "
            "folders named as labels.",
        ),
    ] = None
    min_agreement: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            metavar="PERCENT",
            help="int8: least share of held-back pictures predicted as in fp32, in %.",
        ),
    ] = 99.0


AllowReduced = Annotated[
    bool, typer.Option("--allow-reduced/--no-allow-reduced", help="Let providers compute in bf16, fp16 and TF32.")
]
MaxAccuracyDrop = Annotated[
    float,
    typer.Option(
        min=0,
        max=100,
        metavar="POINTS",
        help="int8: greatest loss of accuracy on labelled held-back pictures, in points.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Names of the classes: one a line, JSON, CSV and others.  [default: as the checkpoint or folder has]",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which of several networks in the file: the name of its entry, or the start of its keys.  "
        "[default: the only one, or that which is no average]",
    ),
]
Samples = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Typical pictures that the model was not trained on, for the check and the report; a few are kept beside "
        "the model. With 100 or more, the server tells when pictures of requests differ from them.  "
        "[default: synthetic pictures]",
    ),
]

Vocab = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The training's vocabulary: vocab.pkl, vocab.pth, WORDMAP_*.json, infos_*.pkl; one word a line, or "
        'JSON {"word": id} or {"0": "word"}.  [default: the one in the checkpoint]',
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, max=1000, metavar="N", help="Greatest length of a caption, in tokens.")
]
ChosenDecoderPrecision = Annotated[
    DecoderPrecision,
    typer.Option(
        "--decoder-precision",
        help="Precision of the decoder. int8-rescored: its output layer in int8, and the 64 best words scored "
        "again from fp32 weights. Greedy words stay the same; beams and samples may change a little. For servers "
        "on the CPU with few concurrent requests: a step of one caption takes a third (LSTM) to four fifths "
        "(attention) of the time, a step of 16 or more about as long as in fp32. The file grows by up to 30 %, "
        "as the fp32 weights stay.",
    ),
]

StrideIn1x1 = Annotated[
    bool,
    typer.Option(
        "--stride-in-1x1",
        help="The first convolution of each block has the stride, as in Caffe; a checkpoint does not record it.",
    ),
]
Assume = Annotated[
    list[str] | None,
    typer.Option(
        "--assume",
        metavar="NAME=VALUE",
        help="A property of the network that its file does not record, e.g. activation=silu; may be repeated. The "
        "output and `inspect` list those of a network, with their values.",
    ),
]


def read_assume(given: Sequence[str]) -> dict[str, str]:
    """Return the values of --assume by name.

    Raises:
        BadInput: An entry is not NAME=VALUE, or two give the same name different values.
    """
    values: dict[str, str] = {}
    for entry in given:
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not (name and equals and value):
            raise BadInput(f"--assume {entry}: give NAME=VALUE, e.g. --assume activation=silu")
        if values.setdefault(name, value) != value:
            raise BadInput(f"--assume gives {name} two values, {values[name]} and {value}")
    return values


Expect = Annotated[
    Path | None,
    typer.Option(
        "--expect",
        metavar="FILE",
        help="Answers of your own model (see `record`) that the exported model must give.",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"resonnx-export {__version__}")
        raise typer.Exit


ShowVersion = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Make each field of a command's dataclass parameters an option of its own."""
    groups: dict[str, Any] = {name: kind for name, kind in get_type_hints(command).items() if is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        members = inspect.signature(group).parameters.values() if group else [parameter]
        parameters += [member.replace(kind=inspect.Parameter.KEYWORD_ONLY) for member in members]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run
