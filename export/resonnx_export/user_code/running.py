"""Turns what the user's code raises into one line that names the place."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resonnx_export.errors import BadInput


@contextmanager
def running(what: str) -> Iterator[None]:
    """Turn exceptions of the user's code, and its attempts to end the process, into BadInput: "{what} raised ...".

    BadInput passes through.
    """
    try:
        yield
    except BadInput:
        raise
    except SystemExit as error:
        raise BadInput(
            f"{what} ended the process (exit {error.code}): put what the file does when it is run as a script under "
            'if __name__ == "__main__"'
        ) from error
    except Exception as error:
        raise BadInput(f"{what} raised {described(error)}") from error


def described(error: Exception) -> str:
    """Return the type, the message's first lines and the place of an exception, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = f"{type(error).__name__}: {'; '.join(lines[:2])}" if lines else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    return f"{message} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else message
