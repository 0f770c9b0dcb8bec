"""Loads a bare ONNX file. Without a manifest, only the independence of its rows is checked.

It is batched only if all inputs and outputs share a symbolic axis 0, and a trial of three rows together, one by one
and permuted agrees. NaN and infinity are valid outputs.
"""

import logging
from functools import partial
from typing import Final

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import ModelRefused
from resonnx_server.inference.registry import SessionReport
from resonnx_server.inference.tasks import TENSORS
from resonnx_server.repository.instances import choose_instances
from resonnx_server.repository.tasks import Prepared, starting
from resonnx_server.repository.version import Start, Version
from resonnx_server.repository.warming import Warming
from resonnx_server.runtime.model_files.files import NotReadable, read_regular
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, MANIFEST, VersionFiles
from resonnx_server.runtime.session import PROVIDERS, Array, Candidate, Session, TensorSpec
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, TensorInstanceGroup
from resonnx_server.tensors.engine import TensorEngine

_log = logging.getLogger(__name__)

# Sizes to try for symbolic axes other than the batch, in this order.
_TRIAL_SIZES: Final = (8, 32, 224, 1)
_TOLERANCE: Final = 1e-3


def load(version: Version) -> Start:
    """Open and try. Raises ModelRefused if there is no model.onnx or it does not load."""
    try:
        content = read_regular(version.folder.path / CLASSIFIER_FILE)
    except FileNotFoundError:
        raise ModelRefused(f"the version folder holds neither a {MANIFEST} nor a {CLASSIFIER_FILE}") from None
    except OSError as error:
        raise ModelRefused(f"{CLASSIFIER_FILE} cannot be read: {error.strerror}") from None
    except NotReadable as error:
        raise ModelRefused(f"{CLASSIFIER_FILE} {error}") from None
    version.progress.reach("opening")
    # Other providers cannot be checked without golden examples: the CPU, unless another is named.
    asked = version.settings.provider or "auto"
    provider = PROVIDERS["cpu" if asked == "auto" else asked]
    session = Session(content, Candidate(provider, pb.PRECISION_FP32), version.threads, cache=version.cache.folder)
    version.progress.reach("checking")
    batched = rows_are_independent(session)
    instances = _instances(version, content, session, batched)
    _log.warning("serving unverified: no manifest", extra={"model": version.folder.name, "batched": batched})
    report = SessionReport(CLASSIFIER_FILE, session.candidate, instances.table, instances.max_concurrent_batches)
    prepared = Prepared(session.inputs, session.outputs, (report,), partial(TensorEngine, instances, batched=batched))
    max_batch_size = None if batched else 0
    return starting(version, TENSORS, prepared, None, max_batch_size, session.overridable)


def rows_are_independent(session: Session) -> bool:
    """Return whether requests may share a batch of this graph."""
    specs = (*session.inputs, *session.outputs)
    if not session.inputs or any(not spec.shape or isinstance(spec.shape[0], int) for spec in specs):
        return False
    if len({spec.shape[0] for spec in specs}) != 1 or any(spec.dtype == object for spec in session.inputs):
        return False
    for size in _TRIAL_SIZES:
        try:
            return _trial(session, size)
        except Exception as error:  # ONNX Runtime's errors share no base class; another size may fit
            _log.debug("a trial run failed", extra={"size": size, "error": str(error)})
    return False


def _trial(session: Session, size: int) -> bool:
    rng = np.random.default_rng(0)
    feeds = {spec.name: _random(rng, spec, size) for spec in session.inputs}
    together = session.run(feeds)
    if any(array.ndim == 0 or len(array) != 3 for array in together.values()):
        return False
    single = [session.run({name: array[row : row + 1] for name, array in feeds.items()}) for row in range(3)]
    order = np.array([2, 0, 1])
    permuted = session.run({name: array[order] for name, array in feeds.items()})
    return all(
        _agree(array, np.concatenate([row[name] for row in single])) and _agree(array[order], permuted[name])
        for name, array in together.items()
    )


def _random(rng: np.random.Generator, spec: TensorSpec, size: int) -> Array:
    shape = (3, *(axis if isinstance(axis, int) else size for axis in spec.shape[1:]))
    if np.issubdtype(spec.dtype, np.floating):
        return rng.standard_normal(shape).astype(spec.dtype)
    # Small integers, as they are often indices.
    return rng.integers(0, 2, shape).astype(spec.dtype)


def _agree(left: Array, right: Array) -> bool:
    if left.shape != right.shape:
        return False
    if not np.issubdtype(left.dtype, np.floating):
        return bool((left == right).all())
    finite = np.isfinite(left)
    if not np.array_equal(finite, np.isfinite(right)):
        return False
    scale = float(np.abs(left[finite]).max(initial=0.0))
    return bool((np.abs(left[finite].astype(np.float64) - right[finite]) <= _TOLERANCE * scale).all())


def _instances(version: Version, content: bytes, session: Session, batched: bool) -> TensorInstanceGroup:
    """Warm up with zeros; if a shape is unknown or zeros fail, start from a guess that live batches correct.

    A graph that is not batched has one size, 1: a whole request.
    """
    sizes = version.batch_sizes if batched else (1,)
    table = LatencyTable({size: 1e6 * size**0.5 for size in sizes})
    free = any(not isinstance(axis, int) for spec in session.inputs for axis in spec.shape[1:])
    strings = any(spec.dtype == object for spec in session.inputs)
    if not free and not strings:
        files = VersionFiles("", {CLASSIFIER_FILE: content}, pb.Manifest())
        warming = Warming(version, files, CLASSIFIER_FILE, _run_zeros)
        try:
            if batched:
                return choose_instances(warming, session)
            table = warming.costs(session, sizes)
        except Exception as error:  # as above
            _log.debug("the warm-up failed", extra={"error": str(error)})
    return InstanceGroup.single(SessionPool(session.run, table, has_all_cores=version.threads > 1))


def _run_zeros(session: Session, rows: int) -> dict[str, Array]:
    shapes = {spec: [axis if isinstance(axis, int) else rows for axis in spec.shape] for spec in session.inputs}
    return session.run({spec.name: np.zeros(shape, spec.dtype) for spec, shape in shapes.items()})
