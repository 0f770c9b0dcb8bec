"""Brings the keys of a state_dict to common names: without wrappers, blocks with torchvision's names."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from torch import Tensor

from resonnx_export.errors import BadInput

# Modules that wrap another one, from DataParallel, torch.compile, FSDP, checkpointing and DeepSpeed.
_WRAPPER: Final = re.compile(
    r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|_module)\."
)
# Longer and deeper names than any network's.
_MAX_LENGTH, _MAX_DEPTH = 1000, 32

# The layout of Cadene's SE networks, which have the stem and strides of Caffe's.
CADENE: Final = "cadene-se"
HUGGING_FACE: Final = "hugging-face"

_HF_STEM: Final = re.compile(r"(^|\.)embedder\.embedder\.(convolution|normalization)\.")
_HF_BLOCK: Final = re.compile(
    r"(^|\.)encoder\.stages\.(\d{1,3})\.layers\.(\d{1,3})\.(?:layer\.(\d)|shortcut)\.(convolution|normalization)\."
)
_SHORTCUT: Final = re.compile(r"(\.\d{1,4})\.shortcut\.(?=\d)")
_RESIDUAL: Final = re.compile(r"(\.\d{1,4})\.residual_function\.([013467])\.")
_RESIDUAL_NAMES: Final = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
_SE_MODULE: Final = re.compile(r"(\.\d{1,4})\.se_module\.")


class Dialect(NamedTuple):
    """Another project's names: the layout's name, or "" if others have them too, and the replacement."""

    layout: str
    pattern: re.Pattern[str]
    replacement: str | Callable[[re.Match[str]], str]


def _hf_stem(match: re.Match[str]) -> str:
    return f"{match[1]}{'conv1' if match[2] == 'convolution' else 'bn1'}."


def _hf_block(match: re.Match[str]) -> str:
    start, stage, block, layer, kind = match.groups()
    part = ("conv" if kind == "convolution" else "bn") + str(int(layer or 0) + 1)
    if layer is None:
        part = f"downsample.{0 if kind == 'convolution' else 1}"
    return f"{start}layer{int(stage) + 1}.{block}.{part}."


DIALECTS: Final = (
    Dialect(HUGGING_FACE, _HF_STEM, _hf_stem),
    Dialect(HUGGING_FACE, _HF_BLOCK, _hf_block),
    # weiaicunzai/pytorch-cifar100.
    Dialect("cifar-weiaicunzai", _RESIDUAL, lambda match: f"{match[1]}.{_RESIDUAL_NAMES[match[2]]}."),
    Dialect("", _SHORTCUT, r"\1.downsample."),
    # Cadene's pretrainedmodels, and timm's legacy_seresnet*.
    Dialect(CADENE, _SE_MODULE, r"\1.se."),
)


def unwrapped(state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors without the names of wrappers in their keys, unless two keys would become the same.

    Raises BadInput if a name is longer or deeper than any network's.
    """
    if long := next((key for key in state_dict if len(key) > _MAX_LENGTH or key.count(".") > _MAX_DEPTH), None):
        raise BadInput(
            f"the name of a tensor has {len(long)} characters and {long.count('.')} dots; at most {_MAX_LENGTH} and "
            f"{_MAX_DEPTH} are read"
        )
    shorter = {_WRAPPER.sub("", key): value for key, value in state_dict.items()}
    return shorter if len(shorter) == len(state_dict) else state_dict


def translated(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, str], str]:
    """Return each key with torchvision's names for the parts of blocks, and the dialect's layout, "" if there is none.

    Keys that would collide keep their names.
    """
    found, layout = {}, ""
    for key in state_dict:
        common = key
        for dialect in DIALECTS:
            common, count = dialect.pattern.subn(dialect.replacement, common)
            layout = layout or (dialect.layout if count else "")
        found[key] = common
    if len(set(found.values())) < len(found):
        return {key: key for key in state_dict}, ""
    return found, layout


def below(prefix: str, name: str) -> bool:
    """Tell whether a module is another one, or a part of it; all are parts of ""."""
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def joined(*parts: str) -> str:
    """Join names that may be empty."""
    return ".".join(filter(None, parts))


def modules_of(keys: Iterable[str]) -> dict[str, list[str]]:
    """Return the modules with tensors of their own, in the order of the keys, and the names of these tensors."""
    found: dict[str, list[str]] = {}
    for key in keys:
        module, _, tensor = key.rpartition(".")
        found.setdefault(module, []).append(tensor)
    return found
