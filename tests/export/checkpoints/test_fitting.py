"""A checkpoint's tensors are fitted to a module: of copies of a network, the average is not taken unasked."""

import time

import pytest
import torch
from resonnx_export.checkpoints.fitting import Fitted, fit
from resonnx_export.errors import BadInput
from resonnx_export.networks.detect import CheckpointMismatch
from torch import Tensor

SHAPES = {"stem.weight": (4, 3, 3, 3), "head.weight": (5, 4), "head.bias": (5,)}


def tensors(value: float, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{key}": torch.full(shape, value) for key, shape in SHAPES.items()}


def value_of(fitted: Fitted) -> set[float]:
    assert fitted.state_dict.keys() == SHAPES.keys()
    return {float(each.flatten()[0]) for each in fitted.state_dict.values()}


@pytest.mark.parametrize(
    "content",
    [
        {"model_ema": tensors(2), "model": tensors(1)},
        {"ema": {"state_dict": tensors(2)}, "weights": tensors(1)},
        {"state_dict": tensors(2, "ema_model.module.") | tensors(1, "model.")},
        {"state_dict": tensors(1, "net.") | tensors(2, "net_ema.")},
        tensors(2, "model_ema.") | tensors(1),
    ],
)
def test_averages_are_passed_over_and_told(content: dict[str, object]) -> None:
    fitted = fit(content, SHAPES, "Net")
    assert value_of(fitted) == {1}
    assert any("ema" in note and "--weights" in note for note in fitted.notes)


def test_an_average_alone_is_taken() -> None:
    assert value_of(fit({"state_dict": tensors(2, "ema_model.")}, SHAPES, "Net")) == {2}


LAYERS = {f"layer{number}.weight": (number + 1,) for number in range(30)}


def test_the_prefix_of_most_keys_is_taken() -> None:
    state = {f"net.{key}": torch.ones(shape) for key, shape in LAYERS.items()}
    noise = {f"other{number}.layer0.weight": torch.ones(1) for number in range(1000)}
    with pytest.raises(CheckpointMismatch, match=r"unexpected: other0\.layer0\.weight"):
        fit(state | noise, LAYERS, "Net")
    assert fit(state, LAYERS, "Net").state_dict.keys() == LAYERS.keys()


def test_many_keys_of_one_name() -> None:
    state = {f"a{number}.layer0.weight": torch.ones(1) for number in range(20_000)}
    started = time.process_time()
    with pytest.raises(CheckpointMismatch):
        fit(state, LAYERS, "Net")
    assert time.process_time() - started < 5


def test_containers_that_a_file_holds_many_times() -> None:
    tree: dict[str, object] = {"weight": torch.ones(1)}
    for _ in range(3):
        tree = {str(number): tree for number in range(300)}
    started = time.process_time()
    with pytest.raises(CheckpointMismatch):
        fit(tree, LAYERS, "Net")
    assert time.process_time() - started < 1
    with pytest.raises(BadInput, match="300 groups of tensors"):
        fit({str(number): {"weight": torch.ones(1)} for number in range(300)}, LAYERS, "Net")
