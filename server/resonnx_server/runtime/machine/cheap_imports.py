"""Makes imports cheap while the server starts: libraries prepare things then that it never uses."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# While modules are imported: the system's authorities are of no use to a server, and aiohttp reads them for its client.
_NO_AUTHORITIES: Final = {"SSL_CERT_FILE": os.devnull}
# From then on: pydantic looks through all installed distributions for plugins.
_NO_PLUGINS: Final = {"PYDANTIC_DISABLE_PLUGINS": "__all__"}


@contextmanager
def cheap_imports() -> Iterator[None]:
    """Import modules in this context: without garbage collections, certificates of authorities and pydantic's plugins.

    It changes environment variables, so no other thread may run. They take a quarter of the imports' processor time.
    """
    for name, chosen in _NO_PLUGINS.items():
        os.environ.setdefault(name, chosen)
    before = {name: os.environ.get(name) for name in _NO_AUTHORITIES}
    os.environ.update(_NO_AUTHORITIES)
    gc.disable()
    try:
        yield
    finally:
        # Modules stay: later collections need not look at them.
        gc.freeze()
        gc.enable()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
