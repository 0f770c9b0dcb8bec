"""Prints docs/settings.md, the reference of all settings; `make settings` runs it."""

from collections.abc import Iterator

from pydantic import BaseModel
from resonnx_server.config import ModelSettings, Settings
from resonnx_server.config_text import Setting, describe

_HEAD = """\
# Settings of resonnx-server

<!-- Made by `make settings` from server/resonnx_server/config.py: change it there. -->

Flags override `RESONNX_*` variables, variables the TOML file of `--config` (or `RESONNX_CONFIG`), and the file the
defaults. An unknown flag or key, or a misspelt variable, ends the server with exit code 2 and names the nearest
setting; other `RESONNX_*` variables are reported on stderr and ignored. Empty variables count as not given.

## Server

In the file: `[server]`. As a flag: `--max-message-bytes` for `max_message_bytes`; booleans: `--strict` or
`--no-strict`. As a variable: `RESONNX_MAX_MESSAGE_BYTES`.
"""

_MODELS = """\

## One model

In `[models.NAME]` of the server's file, where NAME is the model's folder in the repository, or in a file `config.toml`
in that folder, without a section. Where both give a setting, the server's file counts. `config.toml` is read at each
load of the model; a setting in it that cannot be used refuses the model. A `config.pbtxt` there gives some settings as
well ([triton.md](triton.md)), which count less. If the server's file names a model that is not
there, a warning in the log names the nearest one.
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
