"""The classes `Client` and `AsyncClient`."""

import resonnx._clients.aio.operations as aio_operations
import resonnx._clients.aio.pictures as aio_pictures
import resonnx._clients.aio.videos as aio_videos
from resonnx._clients.blocking.operations import Operations
from resonnx._clients.blocking.pictures import Pictures
from resonnx._clients.blocking.videos import Videos


class Client(Pictures, Videos, Operations):
    """A connection to a resonnx server; it connects on first use. It starts no threads, and threads may share it.

    Every method raises ResonnxError if the server or the network fails, and OSError, TypeError or ValueError for an
    argument that is not an `ImageSource` or a `VideoSource`.

    Args:
        server: "host" or "host:port"; default $RESONNX_SERVER, else "localhost". The default port is 8001. Calls are
            distributed over several servers, "host:port,host:port", and over all addresses of a name,
            "dns:///name:port"; a call that does not reach one goes to another.
        timeout_s: Default timeout of calls, including retries; None for no limit.
        key: API key; default $RESONNX_KEY, else none. Without TLS, whoever sees the traffic sees the key.
        tls: True for TLS with a server whose certificate a well-known authority has signed; Tls(…) for others.
        health_checks: Calls go only to those addresses of a name whose server is ready. False for servers with
            `open_health = false`, which tell their health to keys only.

    Raises:
        OSError: A file of `tls` cannot be read.
        ValueError: `server` is not an address, but for example a URL; or the key cannot be sent.
    """


class AsyncClient(aio_pictures.Pictures, aio_videos.Videos, aio_operations.Operations):
    """An asyncio connection to a resonnx server; methods, arguments, results and errors are those of `Client`.

    It connects on first use, in the event loop that runs then; after that loop is closed it may be used in another
    one. Files are read in the event loop: pass bytes if reading is slow. Pictures that must be compressed to fit into a
    message are encoded in a thread.

    Args:
        server: Address, as for `Client`.
        timeout_s: Default timeout of calls, including retries; None for no limit.
        key: API key, as for `Client`.
        tls: As for `Client`.
        health_checks: As for `Client`.

    Raises:
        OSError: A file of `tls` cannot be read.
        ValueError: `server` is not an address, but for example a URL; or the key cannot be sent.
    """
