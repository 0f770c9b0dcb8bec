"""How calls end with a status."""

import grpc

Trailers = tuple[tuple[str, str | bytes], ...]


class Aborted(Exception):
    """A handler ended its call with `abort`."""


class Rejected(Aborted):
    """A message, or a call, is refused: the call ends with this status."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: Trailers) -> None:
        super().__init__(details)
        self.status = (code, details, trailers)
