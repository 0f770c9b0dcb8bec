"""Records answers.npz with the user's own model; needs torch and numpy, and Pillow for picture files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from resonnx_export.errors import BadInput

# Torch takes seconds to import, and the command line imports this package.
if TYPE_CHECKING:
    from torch import Tensor

_BATCH: Final = 16
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)


def record(
    model: Callable[[Any], Any],
    pictures: Any,
    file: str | PathLike[str],
    *,
    preprocess: Callable[[Any], Tensor] | None = None,
) -> Path:
    """Write the answers of a model to pictures, for `resonnx-export ... --expect`.

    The model runs on its own device, in its own dtype, in eval mode and without gradients; its mode is restored.

    Args:
        model: Maps a batch of preprocessed pictures [N,C,H,W] to logits [N,K] (or an object with `logits`), token ids
            int [N,T] or a list of N lists of ids, or a list of N captions.
        pictures: Pixels uint8 [N,H,W,3], RGB, of the network's input size, as an array, a tensor or a list of pictures;
            or a list of picture files (paths, or their bytes), so that preprocessing is compared too. From 4 to 64.
        file: Where to write, e.g. "answers.npz".
        preprocess: Maps a PIL picture in RGB to a float tensor [C,H,W], as in the training code's evaluation. For
            pixels it may be left out if pixels are divided by 255 and normalised by ImageNet's mean and deviation.

    Returns:
        The path of the file.

    Raises:
        BadInput: The pictures or the model's outputs are not as described; nothing was written.
    """
    import torch

    arrays, inputs = _prepared(pictures if hasattr(pictures, "__getitem__") else list(pictures), preprocess)
    weight = next(iter(getattr(model, "parameters", tuple)()), inputs)
    device = weight.device
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    modules = list(getattr(model, "modules", tuple)())
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            batches = [model(batch.to(device, dtype)) for batch in torch.split(inputs, _BATCH)]
    finally:
        for module in training:
            module.training = True
    arrays |= _outputs(batches, len(inputs))
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    on_gpu = device.type == "cuda" and torch.backends.cudnn.allow_tf32
    arrays |= {
        "device": np.array(device.type),
        "dtype": np.array(str(dtype).removeprefix("torch.")),
        "tf32": np.array(on_gpu or torch.get_float32_matmul_precision() != "highest"),
    }
    path = Path(file)
    with path.open("wb") as out:
        np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    return path


def _prepared(pictures: Any, preprocess: Callable[[Any], Tensor] | None) -> tuple[dict[str, npt.NDArray[Any]], Tensor]:
    """Return what the file holds of the pictures, and the network's inputs [N,C,H,W]."""
    import torch

    if not len(pictures):
        raise BadInput("no pictures were given")
    if isinstance(pictures[0], (str, bytes, PathLike)):
        if preprocess is None:
            raise BadInput("picture files need preprocess: a function of a PIL picture that returns a tensor [C,H,W]")
        data = [each if isinstance(each, bytes) else Path(each).read_bytes() for each in pictures]
        inputs = _stacked([preprocess(_opened(each)) for each in data])
        return {
            "images": np.frombuffer(b"".join(data), np.uint8),
            "image_bytes": np.array([len(each) for each in data]),
            "inputs": inputs.numpy(),
        }, inputs
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise BadInput(
            f"pictures are {pixels.dtype} {list(pixels.shape)}; pixels are uint8 [N,H,W,3]: R, G, B of 0 to 255, not "
            "normalised"
        )
    if preprocess is not None:
        from PIL import Image

        return {"pixels": pixels}, _stacked([preprocess(Image.fromarray(picture)) for picture in pixels])
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32).div(255)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return {"pixels": pixels, "preprocess": np.array("assumed")}, (scaled - mean) / std


def _opened(data: bytes) -> Any:
    import io

    from PIL import Image

    return Image.open(io.BytesIO(data)).convert("RGB")


def _stacked(tensors: Sequence[Any]) -> Tensor:
    import torch

    for each in tensors:
        if not isinstance(each, torch.Tensor) or each.ndim != 3:
            found = f"a tensor {list(each.shape)}" if isinstance(each, torch.Tensor) else f"a {type(each).__name__}"
            raise BadInput(f"preprocess returned {found}; a float tensor [C,H,W] is expected")
    if len(shapes := {tuple(each.shape) for each in tensors}) > 1:
        raise BadInput(f"preprocess returned tensors of different shapes: {' and '.join(map(str, sorted(shapes)[:2]))}")
    return torch.stack(list(tensors)).cpu().to(torch.float32)


def _outputs(batches: Sequence[Any], count: int) -> dict[str, npt.NDArray[Any]]:
    """Return the array of the model's outputs by its name."""
    values = [getattr(batch, "logits", batch) for batch in batches]
    name, rows = _named(values)
    if len(rows) != count:
        raise BadInput(f"the model returned {len(rows)} rows of {name} for {count} pictures")
    if name == "logits" and not np.isfinite(rows).all():
        raise BadInput("the model returned logits that are NaN or infinite")
    return {name: rows}


def _named(values: Sequence[Any]) -> tuple[str, npt.NDArray[Any]]:
    """Return the name and the rows of all batches of outputs."""
    import torch

    first = values[0]
    if isinstance(first, torch.Tensor) and first.ndim == 2:
        if first.is_floating_point():
            return "logits", torch.cat(list(values)).to("cpu", torch.float32).numpy()
        return "tokens", _padded([row.tolist() for value in values for row in value])
    rows = [row for value in values for row in value] if isinstance(first, (list, tuple)) else []
    if rows and all(isinstance(row, str) for row in rows):
        return "captions", np.array(rows)
    if rows and all(_is_tokens(row) for row in rows):
        return "tokens", _padded([[int(token) for token in row] for row in rows])
    found = f"a tensor {list(first.shape)}" if isinstance(first, torch.Tensor) else f"a {type(first).__name__}"
    raise BadInput(f"the model returned {found}; logits [N,K], token ids [N,T] or a list of captions is expected")


def _is_tokens(row: Any) -> bool:
    """Return whether a row is an array, a tensor or a list of whole numbers, which may be tensors themselves."""
    values = row.tolist() if hasattr(row, "tolist") else row
    return isinstance(values, (list, tuple)) and all(
        isinstance(token.item() if hasattr(token, "item") else token, int) for token in values
    )


def _padded(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """Pad rows of token ids with -1 to one length."""
    padded = np.full((len(rows), max(1, *map(len, rows), 0)), -1, np.int64)
    for row, tokens in enumerate(rows):
        padded[row, : len(tokens)] = tokens
    return padded
