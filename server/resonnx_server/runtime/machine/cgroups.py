"""The control groups of this process, v2 and v1, whose limits apply to it."""

from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
OWN_GROUPS: Final = Path("/proc/self/cgroup")


def own_groups_of(file: Path, controller: str) -> tuple[str, str]:
    """Return our groups' paths for cgroup v2 and for a controller of v1; "/" where there is none.

    Args:
        file: Names the process's control groups.
        controller: v1's name, as `cpu` or `memory`.
    """
    unified = own = "/"
    with suppress(OSError, ValueError):
        for line in file.read_text(errors="surrogateescape").splitlines():
            number, controllers, group = line.split(":", 2)
            if number == "0":
                unified = group
            elif controller in controllers.split(","):
                own = group
    return unified, own


def upward(mount: Path, group: str) -> list[Path]:
    """Return the folders of a group and its ancestors, up to the mount.

    A container may have its own group at the mount but read the host's path, or one outside the mount (`/../..`). The
    mount's limit counts then; missing folders have none.
    """
    names = PurePosixPath(group).parts[1:]
    if ".." in names:
        return [mount]
    return [mount.joinpath(*names[:depth]) for depth in range(len(names), -1, -1)]
