"""The captioners that benchmarks serve: ResNet-50 and LSTMs of 512 units and 10,000 words with random weights.

    lstm         the picture is the decoder's first input (yunjey's layout, 224x224)
    attention    each word looks at 196 positions of 2,048 features (sgrvinod's layout, 256x256)
    NAME_int8    the same with the encoder's trunk in int8

Random weights cost the same to run as trained ones. The output layer's are large, so that each word is clearly ahead of
the next best: nothing is decided by rounding.
"""

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from pictures.photographs import write_pictures
from resonnx_export.networks.resnet import ARCHITECTURES, ResNet
from resonnx_export.proof.reference import settle_batch_norm
from safetensors.torch import save_file
from torch import Tensor, nn

_WORDS, _UNITS, _FEATURES = 10_000, 512, 2048
# In random networks rounding grows from word to word.
_MAX_TOKENS = 20
_CALIBRATION_PICTURES = 64
# Logits spread by about so much, beside which float32 rounds by a millionth.
_SPREAD = 2.0
# A random trunk's features are large; undamped they drive gates and attention to their ends.
_DAMPING = 0.1


def captioners(names: tuple[str, ...], folder: Path = Path("benchmarks/.captioners")) -> Path:
    """Return a model repository that holds `names`; missing ones are exported (a minute each).

    Raises:
        subprocess.CalledProcessError: The exporter refuses.
    """
    for name in names:
        if not (folder / name / "1").exists():
            _export(name, folder)
    return folder


def _export(name: str, folder: Path) -> None:
    kind, _, precision = name.partition("_")
    state_dict = weights(kind)
    with tempfile.TemporaryDirectory() as scratch:
        file, words = Path(scratch) / "random.safetensors", Path(scratch) / "words.txt"
        save_file({key: value.contiguous() for key, value in state_dict.items()}, file)
        words.write_text("\n".join(["<pad>", "<start>", "<end>", "<unk>", *(f"word{i}" for i in range(4, _WORDS))]))
        command = [sys.executable, "-m", "resonnx_export", "captioner", str(file), "--vocab", str(words)]
        command += ["--repository", str(folder), "--name", name, "--max-tokens", str(_MAX_TOKENS)]
        if precision == "int8":
            write_pictures(Path(scratch), _CALIBRATION_PICTURES)
            # Random networks agree on nothing: here the speed counts.
            command += ["--precision", "int8", "--calibration", scratch, "--min-agreement", "0"]
        print(f"exporting {name}", flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def weights(kind: str) -> dict[str, Tensor]:
    """Return what the captioners of a kind, "lstm" or "attention", are exported from: the same in every process."""
    torch.manual_seed(0)
    decoder = _attention_decoder() if kind == "attention" else _lstm_decoder()
    return {**_trunk(), **(_projection() if kind == "lstm" else {}), **decoder}


def _trunk() -> dict[str, Tensor]:
    network = ResNet(dataclasses.replace(ARCHITECTURES["resnet50"], num_classes=0))
    settle_batch_norm(network, [torch.randn(4, 3, 224, 224) for _ in range(2)])
    children = {"conv1": 0, "bn1": 1, **{f"layer{stage}": stage + 3 for stage in range(1, 5)}}
    renamed = {}
    for key, value in network.state_dict().items():
        child, _, rest = key.partition(".")
        renamed[f"encoder.resnet.{children[child]}.{rest}"] = value
    return renamed


def _projection() -> dict[str, Tensor]:
    return _named("encoder.linear", nn.Linear(_FEATURES, _UNITS)) | _named("encoder.bn", nn.BatchNorm1d(_UNITS))


def _lstm_decoder() -> dict[str, Tensor]:
    return {
        **_named("decoder.embed", nn.Embedding(_WORDS, _UNITS)),
        **_named("decoder.lstm", nn.LSTM(_UNITS, _UNITS)),
        **_named("decoder.linear", _output()),
    }


def _attention_decoder() -> dict[str, Tensor]:
    cell = nn.LSTMCell(_UNITS + _FEATURES, _UNITS)
    with torch.no_grad():
        cell.weight_ih[:, _UNITS:] *= _DAMPING
    return {
        **_named("decoder.attention.encoder_att", _from_features()),
        **_named("decoder.attention.decoder_att", nn.Linear(_UNITS, _UNITS)),
        **_named("decoder.attention.full_att", nn.Linear(_UNITS, 1)),
        **_named("decoder.embedding", nn.Embedding(_WORDS, _UNITS)),
        **_named("decoder.decode_step", cell),
        **_named("decoder.init_h", _from_features()),
        **_named("decoder.init_c", _from_features()),
        **_named("decoder.f_beta", nn.Linear(_UNITS, _FEATURES)),
        **_named("decoder.fc", _output()),
    }


def _from_features() -> nn.Linear:
    layer = nn.Linear(_FEATURES, _UNITS)
    with torch.no_grad():
        layer.weight *= _DAMPING
    return layer


def _output() -> nn.Linear:
    layer = nn.Linear(_UNITS, _WORDS)
    # An LSTM's outputs are small numbers, of about 0.2.
    nn.init.normal_(layer.weight, std=_SPREAD / (0.2 * _UNITS**0.5))
    return layer


def _named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{key}": value.detach() for key, value in module.state_dict().items()}
