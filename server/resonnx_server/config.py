"""Settings: flags over RESONNX_* variables over the TOML file over defaults; validated once, frozen afterwards.

[server]
repository = "models"
port = 8001

[models.digits]
max_batch_size = 32
"""

import argparse
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from resonnx_server.engine.pacing import CaptionPolicy

Provider = Literal["auto", "cpu", "openvino", "cuda", "tensorrt"]
Port = Annotated[int, Field(ge=0, le=65535)]

_PREFIX = "RESONNX_"


class ConfigError(Exception):
    """A setting that cannot be used; the message names it."""


class ModelSettings(BaseModel):
    """One model's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_batch_size: Annotated[int, Field(ge=1, le=64)] = 16
    max_queue_size: Annotated[int, Field(ge=1, le=100_000)] = 1024
    """Rows that may wait."""
    max_queue_delay_us: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """How long the oldest request may wait for company; 0 never waits."""
    latency_objective_ms: Annotated[float, Field(gt=0, le=60_000)] | None = None
    """From arrival to answer: steers batch sizes and whose turn it is. Refuses nothing by itself."""
    shed_on_objective: bool = False
    """Refuse what would miss the objective, as if it were every caller's deadline."""
    caption_policy: CaptionPolicy = "continuous"
    """How captions share the device: joining and leaving between steps, one at a time, or in rigid batches. The last
    two are there to compare with."""
    jpeg_scaling: bool = False
    """Decode large JPEG files at 1/2, 1/4 or 1/8 of their size where that is still twice what the model needs: several
    times faster, for values that differ a little from the recipe's (see runtime/images.py)."""
    provider: Provider | None = None
    """The server's, if not given."""


class Settings(BaseModel):
    """All settings of the server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repository: Path
    host: str = "127.0.0.1"
    port: Port = 8001
    http_port: Port = 8002
    provider: Provider = "auto"
    cache_dir: Path | None = None
    """Where measured latency tables are kept between starts."""
    strict: bool = False
    """Not ready while any model is refused."""
    max_message_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 30)] = 64 << 20
    grace_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """How long work under way may take after SIGTERM."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    models: dict[str, ModelSettings] = Field(default_factory=dict)

    def for_model(self, name: str) -> ModelSettings:
        """Return the settings of one model."""
        settings = self.models.get(name, ModelSettings())
        return settings.model_copy(update={"provider": settings.provider or self.provider})


def load_settings(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Read settings from flags, variables and the file that --config names.

    Raises:
        ConfigError: A value is out of range, a key is unknown, or the file cannot be read.
    """
    flags = {name: value for name, value in vars(_parser().parse_args(arguments)).items() if value is not None}
    variables = {
        name: value
        for name in (*Settings.model_fields, "config")
        if name != "models"
        and (value := environment.get(_PREFIX + name.upper(), ""))
        # Kubernetes sets RESONNX_PORT so for a service that is called resonnx.
        and not value.startswith("tcp://")
    }
    given = {**variables, **flags}
    file = _read_file(given.pop("config", None))
    try:
        return Settings.model_validate({**file.get("server", {}), **given, "models": file.get("models", {})})
    except ValidationError as error:
        raise ConfigError(_told(error.errors()[0])) from None


def _told(error: ErrorDetails) -> str:
    """Return what is wrong with one setting."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"setting {name}: give --{name}, {_PREFIX}{name.upper()}, or {name} in [server] of the --config file"
    if error["type"] == "extra_forbidden":
        known = ModelSettings.model_fields if error["loc"][0] == "models" else Settings.model_fields
        return f"setting {name}: there is no such setting; there are {', '.join(sorted(known))}"
    return f"setting {name}: {error['msg']} (it is {error['input']!r})"


def _read_file(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"config file {path}: {error}") from None
    if unknown := sorted(content.keys() - {"server", "models"}):
        raise ConfigError(f"config file {path}: unknown section [{unknown[0]}]; there are [server] and [models.NAME]")
    models = content.get("models", {})
    sections = {"server": content.get("server", {}), "models": models}
    if isinstance(models, dict):
        sections |= {f"models.{name}": settings for name, settings in models.items()}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ConfigError(f"config file {path}: {name} must be a section, [{name}] (it is {section!r})")
    return content


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resonnx-server",
        description="Serve proved ResNet classifiers and captioners over gRPC. Each flag can also be given as "
        "RESONNX_<FLAG> or in the [server] section of the --config file.",
    )
    parser.add_argument("--repository", help="folder of models")
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", help="gRPC port, 0 for a free one (8001)")
    parser.add_argument("--http-port", help="port of /metrics, /livez and /readyz (8002)")
    parser.add_argument("--provider", help="auto, cpu, openvino, cuda or tensorrt (auto)")
    parser.add_argument("--cache-dir", help="where measured latency tables are kept between starts")
    parser.add_argument("--config", help="TOML file with [server] and [models.NAME]")
    parser.add_argument("--strict", action="store_true", default=None, help="not ready while any model is refused")
    parser.add_argument("--max-message-bytes", help="largest request and answer (67108864)")
    parser.add_argument("--grace-s", help="seconds for work under way after SIGTERM (30)")
    parser.add_argument("--log-level", help="debug, info, warning or error (info)")
    return parser
