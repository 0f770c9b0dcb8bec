"""Loads an ONNX file without a manifest. It is not verified; only the independence of its rows is tried."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import ModelRefused
from resonnx_server.inference.registry import SessionReport
from resonnx_server.inference.tasks import TENSORS
from resonnx_server.repository.bare.bare_source import read_bare
from resonnx_server.repository.bare.child_trial import try_in_child
from resonnx_server.repository.bare.row_trial import (
    MOST_BYTES,
    CannotRun,
    Dependent,
    check_rows,
    check_same,
    check_shapes,
)
from resonnx_server.repository.bare.warm_up import warm_up
from resonnx_server.repository.instances import choose_instances, tensor_pool
from resonnx_server.repository.model_config.declared_graph import view_of
from resonnx_server.repository.reopening import Source, run_zeros
from resonnx_server.repository.tasks import Prepared, starting
from resonnx_server.repository.version import Start, Version
from resonnx_server.repository.warming import Warming
from resonnx_server.runtime.cancellation import Cancellation
from resonnx_server.runtime.model_files.batch_axis import with_free_batch
from resonnx_server.runtime.model_files.constants.check import check_constants
from resonnx_server.runtime.model_files.files import MAX_FILE_BYTES
from resonnx_server.runtime.model_files.manifest import (
    VersionFiles,
)
from resonnx_server.runtime.session import PROVIDERS, Candidate, Session
from resonnx_server.runtime.tensor_view import row_bytes
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, TensorInstanceGroup
from resonnx_server.tensors.engine import TensorEngine

_log = logging.getLogger(__name__)

# Inputs, and outputs. A classifier has one, a recurrent network some dozens.
_MOST_TENSORS: Final = 1024


class Opened(NamedTuple):
    """A file that can be served.

    Attributes:
        variant: The file, with a batch axis if it can have one.
        identity: sha256 of SHA256SUMS, hex; "" without one.
        reason: Why its requests share no batch; None if they do.
    """

    variant: "_Variant"
    identity: str
    reason: str | None


def load(version: Version) -> Start:
    """Open, try and measure. Raises ModelRefused as `open_bare`."""
    (name, _, session, _), identity, reason = opened = open_bare(version)
    batched = reason is None
    instances = _instances(version, opened.variant, batched)
    if (declaration := version.settings.declaration) is not None:
        warm_up(declaration.warm_ups, session, instances)
    extra = {"model": version.folder.name, "batched": batched, "not_batched": reason}
    _log.warning("serving unverified: no manifest", extra=extra)
    report = SessionReport(name, session.candidate, instances.table, instances.max_concurrent_batches)
    engine = partial(TensorEngine, instances, batched=batched, row_bytes=row_bytes(*session.inputs, *session.outputs))
    prepared = Prepared(session.inputs, session.outputs, (report,), engine)
    max_batch_size = None if batched or _declares_rows(version, session) else 0
    optional = session.overridable
    return starting(version, TENSORS, prepared, None, max_batch_size, optional, identity, shares_batches=batched)


def _declares_rows(version: Version, session: Session) -> bool:
    """Whether a config.pbtxt says that all inputs and outputs have a batch axis, and the graph leaves it free."""
    declaration = version.settings.declaration
    if declaration is None or not (declaration.inputs and declaration.outputs and version.settings.max_batch_size):
        return False
    return all(spec.shape and not isinstance(spec.shape[0], int) for spec in (*session.inputs, *session.outputs))


def open_bare(version: Version) -> Opened:
    """Open and try.

    Raises:
        ModelRefused: There is no ONNX file, it or its external data does not load, its constants are large, or it is
            not what the model's config.pbtxt says.
    """
    name, content, identity = read_bare(version)
    check_constants(content)
    if version.trusted is None:
        # Who signed a file vouches for it.
        version.progress.reach("trying")
        try_in_child(content)
    version.progress.reach("opening")
    session = _open(version, content)
    _check_sizes(session)
    version.progress.reach("checking")
    reason, variant = None, _Variant(name, content, session)
    try:
        variant = _with_batch_axis(version, variant)
    except Dependent as dependent:
        reason = str(dependent)
    return Opened(variant, identity, reason)


def _open(version: Version, content: bytes) -> Session:
    # Other providers cannot be checked without golden examples: the CPU, unless another is named.
    asked = version.settings.provider or "auto"
    provider = PROVIDERS["cpu" if asked == "auto" else asked]
    session = Session(content, Candidate(provider, pb.PRECISION_FP32), version.threads, cache=version.cache.folder)
    if (declaration := version.settings.declaration) is not None:
        session.show(view_of(session, declaration, batched=version.settings.max_batch_size > 0))
    return session


def _check_sizes(session: Session) -> None:
    """Raise ModelRefused if no request could name all tensors, or hold an input."""
    for kind, specs in (("inputs", session.inputs), ("outputs", session.outputs)):
        if len(specs) > _MOST_TENSORS:
            raise ModelRefused(f"the graph has {len(specs)} {kind}; {_MOST_TENSORS} are served")
    for spec in session.inputs:
        if (size := spec.least_bytes) > MAX_FILE_BYTES:
            raise ModelRefused(f"input {spec.name!r} {list(spec.shape)} has {size} bytes, more than any request")


class _Variant(NamedTuple):
    """The file `name`, or one that was made of it by `change`, and a session of it."""

    name: str
    content: bytes
    session: Session
    change: Callable[[bytes], bytes] = bytes


def _with_batch_axis(version: Version, variant: _Variant) -> _Variant:
    """Return the file with a batch axis and independent rows. Raises Dependent if it has none."""
    if version.settings.max_batch_size == 0:
        raise Dependent("max_batch_size is 0")
    session = variant.session
    check_shapes(session)
    specs = (*session.inputs, *session.outputs)
    names, size = {spec.name for spec in specs}, session.inputs[0].shape[0]
    try:
        if not any(isinstance(spec.shape[0], int) for spec in specs):
            check_rows(session)
            return variant
        return _changed(version, variant, partial(with_free_batch, names=names))
    except Dependent as dependent:
        if not isinstance(size, int) and not isinstance(dependent, CannotRun):
            raise
        # Shapes inside the graph may be fixed as well.
        inner_size = size if isinstance(size, int) else 1
        try:
            return _changed(version, variant, partial(with_free_batch, names=names, size=inner_size))
        except Dependent:
            raise dependent from None


def _changed(version: Version, variant: _Variant, change: Callable[[bytes], bytes]) -> _Variant:
    """Return the file after a change if its rows are independent and its answers those of the file itself."""
    content = change(variant.content)
    try:
        session = _open(version, content)
    except ModelRefused as refused:
        Cancellation.check()
        raise Dependent(f"axis 0 has a fixed size: {refused.message}") from None
    check_rows(session)
    check_same(variant.session, session)
    return _Variant(variant.name, content, session, change)


def _instances(version: Version, variant: _Variant, batched: bool) -> TensorInstanceGroup:
    """Warm up with zeros; if a shape is unknown or zeros fail, start from a guess that live batches correct.

    A graph that is not batched has one size, 1: a whole request.
    """
    name, content, session, change = variant
    source = Source.of_bytes(name, content, lambda: change(read_bare(version).content))
    sizes = version.batch_sizes if batched else (1,)
    table = LatencyTable({size: 1e6 * size**0.5 for size in sizes}, is_measured=False)
    free = any(not isinstance(axis, int) for spec in session.inputs for axis in spec.shape[1:])
    strings = any(spec.dtype == object for spec in session.inputs)
    if not free and not strings and sum(spec.least_bytes for spec in session.inputs) <= MOST_BYTES:
        files = VersionFiles("", {name: content}, pb.Manifest())
        warming = Warming(version, files, name, run_zeros)
        try:
            if batched:
                return choose_instances(warming, session, source)
            table = warming.costs(session, sizes)
        except Exception as error:  # as above
            _log.debug("the warm-up failed", extra={"error": str(error)})
    return InstanceGroup.single(tensor_pool(session, table, source, has_all_cores=version.threads > 1))
