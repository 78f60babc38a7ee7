"""What this program wrote, and so may replace or delete; all else is left where it is."""

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .seals import MARK, mark_of

# What a process that was killed leaves beside what it made.
_LEFT = re.compile(r".+\.[0-9a-f]{8}\.(part|old)")


def stamp(file: Path, facts: Mapping[str, Any], names: Iterable[str]):
    """Mark the directory of a file as ours: facts, and the names of all that is in it.

    Whatever is in it without a name here is somebody else's.
    """
    mark = {"version": importlib.metadata.version("jaxflow"), "holds": sorted(names)}
    part = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.part")
    part.write_text(json.dumps({**facts, MARK: mark}, indent=2) + "\n")
    os.replace(part, file)


def stamped(file: Path) -> dict[str, Any] | None:
    """The facts of a stamp, if there is a whole one."""
    try:
        facts = json.loads(file.read_bytes())
        names = facts[MARK]["holds"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return facts if isinstance(names, list) else None


def check_free(path: Path, overwrite: bool, *, marker: str):
    """Refuse a path that holds something, or something else than what we marked.

    Args:
        path: Where something is to be written.
        overwrite: Whether it may take the place of what has a mark.
        marker: The file with the mark: `zarr.json` of a store, or a stamp.

    Raises:
        ValueError: If so.
    """
    if Path.cwd().is_relative_to(path.resolve()):
        raise ValueError(
            f"{path} must not hold the current directory, which a result would replace. "
            "Choose a new directory."
        )
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if (other := _foreign(path, marker)) is not None:
        what = "something" if other == path else repr(str(other.relative_to(path)))
        raise ValueError(
            f"{path} must be free, but holds {what} that is not a result of jaxflow. Move "
            "it away, or choose another path."
        )
    if not overwrite:
        raise ValueError(
            f"{path} must be free, but holds another result. Choose another path, or pass "
            "`overwrite=True` (`--overwrite`)."
        )


def remove(path: Path, *, marker: str):
    """Delete a directory that we marked; it is left if it holds what we did not write."""
    if path.exists() and _foreign(path, marker) is None:
        shutil.rmtree(path)


@contextlib.contextmanager
def building(path: Path) -> Iterator[Path]:
    """A new directory beside a path; it is gone at the end, if it was not moved."""
    path = path.resolve()
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    part.mkdir(parents=True)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace(part: Path, path: Path, *, marker: str):
    """Put `part` in the place of `path`, which is there until `part` is.

    Raises:
        ValueError: If there is anything at `path` that we did not write.
    """
    check_free(path, True, marker=marker)
    path = path.resolve()
    old = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.old")
    if path.exists():
        os.rename(path, old)
    try:
        os.rename(part, path)
    except OSError:
        if old.exists():
            os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _foreign(path: Path, marker: str) -> Path | None:
    """Something at a path that we did not write, if there is anything."""
    if marker == "zarr.json":
        return _foreign_in_store(path)
    facts = stamped(path / marker)
    if facts is None:
        return path
    for entry in path.iterdir():
        if entry.name in (marker, *facts[MARK]["holds"]):
            other = _foreign_below(entry)
        else:
            other = None if _LEFT.fullmatch(entry.name) else entry
        if other is not None:
            return other
    return None


def _foreign_below(entry: Path) -> Path | None:
    """The same, in something that a stamp names: a file, a store, or a folder of stores."""
    if entry.is_symlink() or not entry.is_dir():
        return None
    if (entry / "zarr.json").exists():
        return _foreign_in_store(entry)
    parts = (part for part in entry.iterdir() if not _LEFT.fullmatch(part.name))
    return next(filter(None, map(_foreign_in_store, parts)), None)


def _foreign_in_store(store: Path) -> Path | None:
    if mark_of(store) is None:
        return store
    for file in store.rglob("*"):
        # Metadata, or a chunk: below the `c` of an array.
        known = file.name == "zarr.json" or "c" in file.relative_to(store).parts[1:]
        if not known and not file.is_dir():
            return file
    return None
