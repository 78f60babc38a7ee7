"""Whether a store is still as it was written: digests of what it is, checksums of numbers.

The root of a store has an attribute that says that jaxflow wrote it, with a digest of all
metadata; every chunk ends in a checksum. Other programs read such a store as any other.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c

MARK = "jaxflow"
# In the store of a sweep, the group that says which chunks are done.
CHUNKS = "chunks"


def seal(store: Path, sweep: Mapping[str, Any] | None = None):
    """Mark a store as one of ours, whose metadata from now on stay as they are.

    Args:
        store: Where it is.
        sweep: If chunks will be written later: `variables`, their names; `counts`, how many
            chunks there are along the seeds, the static axes and the axes; and `loops`, how
            many static axes there are.
    """
    root = json.loads((store / "zarr.json").read_text())
    files = sorted(store.rglob("zarr.json"))
    names = [file.parent.relative_to(store).as_posix() for file in files]
    digests = {name: _digest(store, name) for name in names if name != "."}
    mark = {"version": importlib.metadata.version("jaxflow"), "digests": digests}
    mark |= {"root": _digest_of_root(root)} | ({"sweep": sweep} if sweep else {})
    root["attributes"] = {**root.get("attributes", {}), MARK: json.dumps(mark)}
    (store / "zarr.json").write_text(json.dumps(root, indent=2))


def mark_of(store: Path) -> dict[str, Any] | None:
    """The mark that a store carries, if it carries one."""
    try:
        mark = json.loads(
            json.loads((store / "zarr.json").read_bytes())["attributes"][MARK]
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    known = isinstance(mark, dict) and isinstance(mark.get("digests"), dict)
    return mark if known else None


def check(store: Path) -> dict[str, Any]:
    """The mark of a store whose metadata are as they were written.

    Raises:
        ValueError: If they are not, with what has changed.
    """
    mark = mark_of(store)
    if mark is None:
        raise ValueError(
            f"{store} cannot be read: its zarr.json does not say that jaxflow wrote it, or "
            "is damaged. `xarray.open_zarr` reads stores of other programs."
        )
    root = json.loads((store / "zarr.json").read_bytes())
    changed = [] if mark.get("root") == _digest_of_root(root) else ["zarr.json"]
    for name, digest in mark["digests"].items():
        found = _digest(store, name)
        if found is None:
            raise ValueError(f"{store} cannot be read: {name!r} is missing from it.")
        changed += [f"{name}/zarr.json"] if found != digest else []
    if changed:
        raise ValueError(
            f"{store} cannot be read: {', '.join(changed)} changed after it was written. "
            "`xarray.open_zarr` reads what is there, without these checks."
        )
    return mark


def intact(file: Path) -> bool:
    """Whether the file of a chunk is there, and as it was written."""
    try:
        return sums_up(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False


def sums_up(data: bytes) -> bool:
    """Whether bytes end in the checksum of those before, as zarr's codec `crc32c` does."""
    return google_crc32c.value(data[:-4]).to_bytes(4, "little") == data[-4:]


def _digest(store: Path, name: str) -> str | None:
    """Of the metadata of an array or a group, if they are there."""
    try:
        return _short((store / name / "zarr.json").read_bytes())
    except OSError:
        return None


def _digest_of_root(root: Mapping[str, Any]) -> str:
    """Of the metadata of the root, without the mark that holds this digest."""
    attributes = {k: v for k, v in root.get("attributes", {}).items() if k != MARK}
    rest = {**root, "attributes": attributes}
    return _short(json.dumps(rest, sort_keys=True).encode())


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
