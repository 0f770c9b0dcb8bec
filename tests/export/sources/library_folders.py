"""Folders as transformers and timm write them, of tiny networks with random weights, and the networks themselves."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..layouts.classifier_sources import randomise

# Declares the operators that the libraries need before they are imported.
from ..networks import torchvision_oracle  # noqa: F401

NAMES = ("cat", "dog", "bird", "fish", "frog")
TINY = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
PROCESSOR = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ConvNextImageProcessor",
    "image_std": [0.25, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 28},
}


@dataclass(frozen=True)
class Written:
    """A folder, and the network that it was written from."""

    folder: Path
    logits: Callable[[Tensor], Tensor]


def hugging_face(
    folder: Path, *, processor: dict[str, Any] | None = None, shards: str = "1GB", **config: Any
) -> Written:
    """Write a folder with transformers' own code."""
    from transformers import ResNetConfig, ResNetForImageClassification

    names = dict(enumerate(NAMES))
    chosen = ResNetConfig(
        num_labels=len(NAMES), id2label=names, label2id={n: i for i, n in names.items()}, **TINY | config
    )
    network = randomise(ResNetForImageClassification(chosen))
    network.save_pretrained(folder, max_shard_size=shards)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | (processor or {})))
    return Written(folder, lambda pictures: network(pictures).logits)


def of_timm(folder: Path, name: str, **overlay: Any) -> Written:
    """Write a folder with timm's own code; `overlay` changes the network's pretrained_cfg."""
    import timm

    network: nn.Module = randomise(timm.create_model(name, num_classes=len(NAMES), pretrained_cfg_overlay=overlay))
    timm.models.save_for_hf(network, folder, model_config={"num_classes": len(NAMES), "label_names": list(NAMES)})
    return Written(folder, network)


def pictures(size: int) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
