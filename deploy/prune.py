"""Removes files that images do not need from an environment: tests, headers, static libraries, torch's programs.

    python deploy/prune.py /app

Prints the freed megabytes. Copies of one library under several names become links.
"""

import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

# Folders of tests; those that packages import themselves have other names (numpy.testing, torch.testing).
_TESTS = ("test", "tests")
# Below torch: headers, files for CMake, and programs, of which sharing tensors between processes needs one.
_OF_TORCH = ("include", "share", "bin")
_KEPT = "torch_shm_manager"
_STATIC = ("*.a", "*.lib")


def unneeded(packages: Path) -> Iterator[Path]:
    """Yield files and folders to be removed, none inside another."""
    yield from sorted(path for name in _TESTS for path in packages.glob(f"*/**/{name}") if _is_whole(path, packages))
    for name in _OF_TORCH:
        yield from sorted(path for path in packages.glob(f"torch/{name}/*") if path.name != _KEPT)
    for pattern in _STATIC:
        yield from sorted(path for path in packages.rglob(pattern) if not {*_TESTS} & {*path.parts})


def _is_whole(path: Path, packages: Path) -> bool:
    above = path.relative_to(packages).parts[:-1]
    return path.is_dir() and not {*_TESTS} & {*above} and above[:2] not in {("torch", name) for name in _OF_TORCH}


def copies(packages: Path) -> Iterator[tuple[Path, Path]]:
    """Yield a library and another one in its folder with the same content."""
    first: dict[tuple[Path, int, bytes], Path] = {}
    # The longest name has the full version.
    for path in sorted(packages.rglob("*.so*"), key=lambda each: (-len(each.name), each)):
        if path.is_file() and not path.is_symlink():
            size = path.stat().st_size
            original = first.setdefault((path.parent, size, hashlib.sha256(path.read_bytes()).digest()), path)
            if original is not path:
                yield path, original


def main() -> None:
    """Prune the environment that the command line names."""
    (packages,) = Path(sys.argv[1]).glob("lib/python3*/site-packages")
    freed = 0
    for path in unneeded(packages):
        freed += sum(each.lstat().st_size for each in [path, *path.rglob("*")] if not each.is_dir())
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path, original in list(copies(packages)):
        freed += path.stat().st_size
        path.unlink()
        path.symlink_to(original.name)
    print(f"prune: {freed / 1e6:.0f} MB less")


if __name__ == "__main__":
    main()
