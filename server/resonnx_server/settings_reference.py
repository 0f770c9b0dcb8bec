"""`python -m resonnx_server.settings_reference`: prints docs/settings.md, the reference of all settings."""

from collections.abc import Iterator

from pydantic import BaseModel

from resonnx_server.config import ModelSettings, Settings
from resonnx_server.config_text import Setting, describe

_HEAD = """\
# Settings of resonnx-server

<!-- Made by `make settings` from server/resonnx_server/config.py: change it there. -->

Flags win over `RESONNX_*` variables, variables over the TOML file that `--config` (or `RESONNX_CONFIG`) names, and the
file over the defaults. An unknown flag or key ends the start with exit code 2 and the nearest name, and so does a
misspelt variable; other `RESONNX_*` variables are named on stderr and ignored. Empty variables count as not given.

## Server

In the file: `[server]`. As a flag: `--max-message-bytes` for `max_message_bytes`; what is true or false:
`--strict` or `--no-strict`. As a variable: `RESONNX_MAX_MESSAGE_BYTES`.
"""

_MODELS = """\

## One model

In the file only: `[models.NAME]`, where NAME is the model's folder in the repository. Where there is no such folder, a
warning in the log says so, with the nearest name.
"""


def reference() -> str:
    """Return the reference of all settings, as Markdown."""
    return "".join([_HEAD, *_table(Settings), _MODELS, *_table(ModelSettings)])


def _table(model: type[BaseModel]) -> Iterator[str]:
    yield "\n| setting | values | default | meaning |\n|---|---|---|---|\n"
    for setting in describe(model):
        yield f"| `{setting.name}` | {setting.values} | {_default(setting)} | {setting.text} |\n"


def _default(setting: Setting) -> str:
    if setting.required:
        return "must be given"
    return f"`{setting.default}`" if setting.default else "not set"


if __name__ == "__main__":
    print(reference(), end="")
