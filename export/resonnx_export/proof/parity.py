"""Checks that a graph gives PyTorch's outputs: max|delta| <= atol + rtol * max|reference|.

An element-wise relative rule would measure rounding next to zeros.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.session import CPU, Array, Candidate, Session

from resonnx_export.errors import ParityFailed

RTOL: Final = 1e-4
ATOL: Final = 1e-7
# Of max|reference|: how far an fp32 provider's outputs may be from the golden examples.
FP32_BOUND: Final = 1e-3
BATCH_SIZES: Final = (1, 3, 7, 16)
# Exceeds RTOL in any graph, but does not change labels.
_DAMAGE: Final = np.float32(1.05)


@dataclass(frozen=True)
class Case:
    """Inputs of a graph (`feeds`) and PyTorch's float32 outputs (`expected`), by tensor name; axis 0 is the batch.

    `scales` replaces an output's own max|reference| as the scale of its differences. The cases of a `group` are
    reported as one check by its name.
    """

    name: str
    feeds: Mapping[str, Array]
    expected: Mapping[str, Array]
    scales: Mapping[str, float] = field(default_factory=dict)
    group: str = ""


def open_session(model: bytes, *, optimise: bool = True) -> Session:
    """Open a graph on the CPU provider in fp32. Raises ParityFailed if it does not load."""
    try:
        return Session(model, Candidate(CPU, pb.PRECISION_FP32), usable_cores(), optimise=optimise)
    except ModelRefused as error:
        raise ParityFailed(f"the exported graph does not load: {error}") from None


def prove_graph(
    file: str, model: bytes, cases: Sequence[Case], *, keep: bool = True
) -> tuple[list[pb.ParityCheck], list[dict[str, Array]]]:
    """Compare a graph with PyTorch on every case, optimised and not, permuted, row by row, and damaged.

    Args:
        file: The graph's name, for the report.
        model: The ONNX file.
        cases: The last has the most rows.
        keep: Whether to return outputs.

    Returns:
        The checks, and the optimised graph's outputs of each case, by tensor name.

    Raises:
        ParityFailed: An output is too far off, or the damaged copy was not refused.
    """
    checks, outputs = [], []
    for optimise in (True, False):
        session = open_session(model, optimise=optimise)
        how = "optimised" if optimise else "not optimised"
        for case in cases:
            found = session.run(case.feeds, list(case.expected))
            checks += in_group(case, compare_case(f"{file}, {case.name}, {how}", case, found))
            if optimise and keep:
                outputs.append(found)
        if optimise:
            checks += check_rows(file, session, cases[-1])
    reject_damaged(file, model, cases[-1])
    return merged(checks), outputs


def in_group(case: Case, checks: list[pb.ParityCheck]) -> list[pb.ParityCheck]:
    """Return checks of a case that passed, renamed to those of its group."""
    for check in checks:
        check.name = check.name.replace(case.name, case.group or case.name)
    return checks


def merged(checks: Sequence[pb.ParityCheck]) -> list[pb.ParityCheck]:
    """Return one check for each name, with the largest values; each of `checks` was within its own bound."""
    by_name: dict[str, pb.ParityCheck] = {}
    for check in checks:
        whole = by_name.setdefault(check.name, pb.ParityCheck(name=check.name))
        for name in ("max_abs_difference", "max_abs_reference", "bound"):
            setattr(whole, name, max(getattr(whole, name), getattr(check, name)))
        whole.pictures += check.pictures
        whole.identical += check.identical
    return list(by_name.values())


def compare_case(name: str, case: Case, found: Mapping[str, Array]) -> list[pb.ParityCheck]:
    """Compare a graph's outputs with PyTorch's, one check each. Raises ParityFailed."""
    return [
        compare(f"{name}: {output}", reference, found[output], scale=case.scales.get(output))
        for output, reference in case.expected.items()
    ]


def compare(
    name: str, reference: Array, found: Array, *, scale: float | None = None, rtol: float = RTOL
) -> pb.ParityCheck:
    """Compare two tensors of the same rows by the rule.

    Args:
        name: For the report.
        reference: The expected values.
        found: The values to check.
        scale: Replaces max|reference|.
        rtol: The allowed difference, as a share of the scale.

    Raises:
        ParityFailed: Shapes differ, a value is not finite, or a difference exceeds the bound.
    """
    if reference.shape != found.shape:
        raise ParityFailed(f"{name}: the shape is {list(found.shape)}, PyTorch's is {list(reference.shape)}")
    if not np.isfinite(reference).all():
        raise ParityFailed(f"{name}: PyTorch's own output is not finite: the checkpoint is damaged or not trained")
    difference = float(np.abs(found - reference).max()) if np.isfinite(found).all() else float("inf")
    largest = float(np.abs(reference).max())
    check = pb.ParityCheck(
        name=name,
        pictures=len(reference),
        max_abs_difference=difference,
        max_abs_reference=largest,
        bound=ATOL + rtol * (largest if scale is None else scale),
        identical=_same_top(reference, found),
    )
    if difference > check.bound:
        raise ParityFailed(f"{name}: max|difference| {difference:.3g} exceeds {check.bound:.3g}", check)
    return check


def _same_top(reference: Array, found: Array) -> int:
    rows = (len(reference), -1)
    return int((reference.reshape(rows).argmax(axis=1) == found.reshape(rows).argmax(axis=1)).sum())


def check_rows(file: str, session: Session, case: Case) -> list[pb.ParityCheck]:
    """Check that rows do not affect each other: f(permuted x) = permuted f(x), and a batch = its rows alone.

    The case has the inputs and the names of the outputs, which are compared with each other, not with PyTorch's. Raises
    ParityFailed.
    """
    outputs = list(case.expected)
    together = session.run(case.feeds, outputs)
    rows = len(next(iter(case.feeds.values())))
    order = np.random.default_rng(rows).permutation(rows)
    permuted = session.run({name: value[order] for name, value in case.feeds.items()}, outputs)
    alone = [session.run({name: value[i : i + 1] for name, value in case.feeds.items()}, outputs) for i in range(rows)]
    checks = []
    for output in outputs:
        scale = case.scales.get(output)
        checks.append(
            compare(f"{file}, {case.name}, permuted: {output}", together[output][order], permuted[output], scale=scale)
        )
        singles = np.concatenate([row[output] for row in alone])
        checks.append(compare(f"{file}, {case.name}, rows alone: {output}", together[output], singles, scale=scale))
    return checks


def reject_damaged(file: str, model: bytes, case: Case) -> None:
    """Check that a copy with one changed weight fails the check.

    Normalisation after a layer can undo the change, as GroupNorm does: the first copy with other outputs is taken.

    Raises:
        ParityFailed: The copy passes, or no change of a weight changes the outputs.
    """
    intact = open_session(model).run(case.feeds, list(case.expected))
    for copy in damaged_copies(model):
        found = open_session(copy).run(case.feeds, list(case.expected))
        if not _noticeable(case, intact, found):
            continue
        try:
            compare_case(f"{file}, damaged copy", case, found)
        except ParityFailed:
            return
        break
    raise ParityFailed(f"{file}: the check does not detect a damaged copy")


def _noticeable(case: Case, intact: Mapping[str, Array], found: Mapping[str, Array]) -> bool:
    """Tell whether an output differs by more than the check allows between two graphs that may each be off by that."""
    for output, reference in intact.items():
        scale = case.scales.get(output, float(np.abs(reference).max()))
        if not float(np.abs(found[output] - reference).max()) <= 2 * (ATOL + RTOL * scale):
            return True
    return False


def damaged_copies(model: bytes) -> Iterator[bytes]:
    """Yield copies with one weight tensor scaled by _DAMAGE: the first convolution's, the last matrix's, then others'.

    Every output depends on the first, unless a normalisation follows it.
    """
    proto = onnx.load_model_from_string(model)
    weights = {initializer.name: initializer for initializer in proto.graph.initializer}
    convolutions = [node.input[1] for node in proto.graph.node if node.op_type == "Conv" and node.input[1] in weights]
    matrices = [
        name
        for node in proto.graph.node
        if node.op_type in ("Gemm", "MatMul")
        for name in node.input
        if name in weights and len(weights[name].dims) == 2
    ]
    for name in dict.fromkeys([*convolutions[:1], *reversed(matrices), *reversed(convolutions)]):
        yield scaled(model, name, _DAMAGE)


def scaled(model: bytes, weight: str, factor: np.float32) -> bytes:
    """Return a copy with the float32 weights `weight` multiplied by `factor`."""
    proto = onnx.load_model_from_string(model)
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == weight)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factor, weight))
    return proto.SerializeToString()
