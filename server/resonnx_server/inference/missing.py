"""Errors of calls for versions that do not serve: they say what there is instead."""

from collections.abc import Collection, Mapping
from typing import Final

from resonnx_server.access.caller import Caller, Role
from resonnx_server.errors import ModelRefused, NotFound, ServerError, Unavailable, VersionNotFound

# Models, versions or labels that an error lists.
_LISTED: Final = 8


def no_such_model(name: str, known: Collection[str]) -> NotFound:
    """Return the error of a call for a model that is not among `known`."""
    # No search for the nearest name: wrong names may come at any rate.
    named = ", ".join(sorted(known)) if 0 < len(known) <= _LISTED else f"{len(known)} models"
    return NotFound(f"model {name[:64]!r} is not in the repository, which has {named}")


def told_to(caller: Caller | None, error: NotFound) -> NotFound:
    """Return `error` as a caller may see it.

    Names of versions need the role `read`; names of models also the right to use all models.
    """
    if caller is None or (Role.READ in caller.roles and (caller.models is None or isinstance(error, VersionNotFound))):
        return error
    return type(error)("there is no such version" if isinstance(error, VersionNotFound) else "there is no such model")


def no_such_label(name: str, version: str, labels: Collection[str]) -> VersionNotFound:
    """Return the error of a call for a version that is neither a number nor one of the model's labels."""
    told = f"its labels are {', '.join(sorted(labels)[:_LISTED])}" if labels else "it has no labels"
    return VersionNotFound(f"version {version[:32]!r} of model {name!r} is neither a number nor a label; {told}")


def no_such_version(
    name: str,
    version: int,
    served: Collection[int],
    reasons: Mapping[int, str],
    stopped: Collection[int],
    awaited: Collection[int],
) -> ServerError:
    """Return the error of a call for a version of a known model.

    Args:
        name: The model's name.
        version: The version's number.
        served: Versions that serve.
        reasons: Why versions were refused, by version.
        stopped: Those of them that had served before.
        awaited: Versions that are being loaded.
    """
    if version in awaited:
        return Unavailable(f"model {name!r} is still being loaded")
    if version in stopped:
        return Unavailable(f"model {name!r} cannot serve any more: {reasons[version]}")
    if version in reasons:
        return ModelRefused(f"model {name!r} was refused at load: {reasons[version]}")
    if served:
        told = _told(served, "is served", "are served")
    elif reasons:
        told = _told(reasons, "was refused at load", "were refused at load")
    else:
        told = _told(awaited, "is being loaded", "are being loaded")
    return VersionNotFound(f"model {name!r} has no version {version}; {told}")


def _told(versions: Collection[int], one: str, many: str) -> str:
    shown = sorted(versions)[-_LISTED:]
    numbers = ", ".join(map(str, shown))
    return f"version {numbers} {one}" if len(shown) == 1 else f"versions {numbers} {many}"
