"""Results on disk: zarr, with where they came from."""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .owned import building, check_free, replace
from .paths import local_path
from .seals import MARK, check, mark_of, seal

Result = xr.Dataset | xr.DataTree


def save(result: Result, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Store a labeled result as zarr, in one piece or not at all.

    Encodings, such as those of a file that it came from, are left out: all numbers are
    stored as they are, with a checksum, and compared with the result when they are there.

    Args:
        result: A dataset, or a tree of them.
        path: A directory that does not exist yet. `~` is the home directory; URLs are
            refused, and all else is taken literally.
        overwrite: Replace a result that is stored there.

    Raises:
        ValueError: If `path` exists, unless it may be overwritten and holds nothing but a
            result; or if the store could not give the same result back.
    """
    path = local_path(path)
    check_free(path, overwrite, marker="zarr.json")
    tree = isinstance(result, xr.DataTree)
    whole = result.map_over_datasets(_storable) if tree else _storable(result)
    with building(path) as part:
        try:
            _write(whole, part)
        except (ValueError, TypeError, NotImplementedError, KeyError) as error:
            raise ValueError(f"`save` cannot store this result: {error}") from error
        seal(part)
        if (changed := _changed(whole, load(part))) is not None:
            raise ValueError(
                f"`save` cannot store {changed}: read back, it would not be the same. "
                "Rename it, or cast it to numbers or texts of one type."
            )
        replace(part, path, marker="zarr.json")
    return path


def _storable(dataset: xr.Dataset) -> xr.Dataset:
    """The same without encodings, and with texts of any length: zarr has no specification
    of those of one.
    """
    dataset = dataset.drop_encoding()
    for name, variable in dataset.variables.items():
        kind = variable.dtype.kind
        texts = kind != "O" or all(isinstance(v, str) for v in variable.to_numpy().flat)
        if kind not in "biufcmMOTU" or not texts:
            # Bytes would be joined, and what is no text would become one.
            raise ValueError(
                f"`save` stores numbers, times and texts, but {str(name)!r} holds "
                f"{variable.dtype if texts else 'other objects'}. Cast it to one of them."
            )
    fixed = {name: v for name, v in dataset.variables.items() if v.dtype.kind == "U"}
    there = {name: dataset[name].astype(object) for name in fixed}
    axes = {name: there.pop(name) for name in fixed if name in dataset.coords}
    return dataset.assign_coords(axes).assign(there)


def _write(result: Result, path: Path):
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.storage import LocalStore

    codecs = {"compressors": (ZstdCodec(level=0), Crc32cCodec())}
    options = {"consolidated": False, "mode": "w", "write_empty_chunks": True}
    if isinstance(result, xr.Dataset):
        encoding = {name: codecs for name in result.variables}
        result.to_zarr(LocalStore(path), encoding=encoding, **options)
        return
    encoding = {
        node.path: {name: codecs for name in node.to_dataset(inherit=False).variables}
        for node in result.subtree
    }
    result.to_zarr(LocalStore(path), encoding=encoding, **options)


def _changed(result: Result, found: Result) -> str | None:
    """What differs between a result and what was found in its place, in a few words."""
    if isinstance(result, xr.DataTree):
        if not isinstance(found, xr.DataTree):
            # A tree of one node.
            return _changed(result.to_dataset(), found)
        there = {node.path: node for node in found.subtree}
        for node in result.subtree:
            if node.path not in there:
                return repr(node.path)
            pair = (each.to_dataset(inherit=False) for each in (node, there[node.path]))
            if (changed := _changed(*pair)) is not None:
                return f"{changed} of {node.path!r}"
        return None
    for name, variable in result.variables.items():
        if name not in found.variables or (name in result.coords) != (name in found.coords):
            return repr(name)
        other = found.variables[name]
        kinds = {_kind(variable.dtype), _kind(other.dtype)}
        if len(kinds) > 1 or not variable.identical(other):
            return repr(name)
    same = result.identical(found)  # pyright: ignore
    return None if same else "its attributes or dimensions"


def _kind(dtype: np.dtype) -> str:
    """A type, but for the order of its bytes, and how texts and times are held."""
    if dtype.kind in "OUT":
        return "text"
    if dtype.kind in "Mm":
        return dtype.kind
    return dtype.newbyteorder("=").name


def load(path: str | os.PathLike[str]) -> Result:
    """A result that `save` or `sweep` stored, read from disk when it is used.

    A sweep can be loaded while it is written: members whose `status` is -1 are pending.
    What is missing though it was written, or has changed since, raises when it is read.

    Raises:
        ValueError: If there is no result at `path`, or not all of it.
    """
    path = local_path(path)
    if not (path / "zarr.json").is_file():
        raise ValueError(f"There must be a stored result at {path}, but there is none.")
    check(path)
    if holds_sweep(path):
        return open_group(path)
    from .sealed_store import SealedStore

    tree = xr.open_datatree(SealedStore(path, read_only=True), **_AS_ZARR)  # pyright: ignore
    tree.attrs.pop(MARK)
    return tree if tree.children else tree.to_dataset()


_AS_ZARR = {"engine": "zarr", "consolidated": False}


def open_group(path: Path, group: str | None = None) -> xr.Dataset:
    """A group of a store, without its mark."""
    from .sealed_store import SealedStore

    store = SealedStore(path, read_only=True)
    found = xr.open_dataset(store, group=group, **_AS_ZARR)  # pyright: ignore
    found.attrs.pop(MARK, None)
    return found


def holds_sweep(path: Path) -> bool:
    """Whether `sweep` made what is there, finished or not."""
    return "sweep" in (mark_of(path) or {})


def provenance(experiment: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Where a result comes from, as attributes that can be stored with it."""
    import jax

    packages = ("jaxflow", "jax", "jaxlib", "equinox", "diffrax", "optax", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    device = jax.local_devices()[0]
    return {
        "experiment": experiment,
        "arguments": json.dumps(arguments),
        "versions": json.dumps(versions | {"python": platform.python_version()}),
        "device": f"{jax.local_device_count()} x {device.device_kind}",
        "platform": platform.platform(),
        "float64": int(jax.config.read("jax_enable_x64")),
        "commit": _commit(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _commit() -> str:
    """The commit of the checkout that this package is in, if it is in one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        words = ("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40")
        return subprocess.run(words, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
