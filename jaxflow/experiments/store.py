"""Results on disk: zarr, with where they came from."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import xarray as xr

Result = xr.Dataset | xr.DataTree
# In the store of a sweep, the group that says which chunks are done.
CHUNKS = "chunks"


def save(result: Result, path: str | Path, *, overwrite: bool = False) -> Path:
    """Store a labelled result as zarr, in one piece or not at all.

    Args:
        result: A dataset, or a tree of them.
        path: A directory that does not exist yet.
        overwrite: Replace a result that is stored there.

    Raises:
        ValueError: If `path` exists, unless it may be overwritten and holds a result.
    """
    path = Path(path)
    check_free(path, overwrite, marker="zarr.json")
    part = beside(path, "part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        tree = isinstance(result, xr.DataTree)
        whole = result.map_over_datasets(_texts) if tree else _texts(result)
        whole.to_zarr(part, mode="w-", consolidated=False)
        replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return path


def _texts(dataset: xr.Dataset) -> xr.Dataset:
    """The same with texts of any length: zarr has no specification of those of one."""
    fixed = {name: v for name, v in dataset.variables.items() if v.dtype.kind == "U"}
    there = {name: dataset[name].astype(object) for name in fixed}
    axes = {name: there.pop(name) for name in fixed if name in dataset.coords}
    return dataset.assign_coords(axes).assign(there)


def load(path: str | Path) -> Result:
    """A result that `save` or `sweep` stored, read from disk when it is used.

    A sweep can be loaded while it is written: members whose `status` is -1 are pending.

    Raises:
        ValueError: If there is no result at `path`.
    """
    if not (Path(path) / "zarr.json").is_file():
        raise ValueError(f"There must be a stored result at {path}, but there is none.")
    if holds_sweep(Path(path)):
        return xr.open_dataset(path, engine="zarr", consolidated=False)
    tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    return tree if tree.children else tree.to_dataset()


def holds_sweep(path: Path) -> bool:
    """Whether `sweep` made what is there, finished or not."""
    return (path / CHUNKS / "done" / "zarr.json").is_file()


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


def check_free(path: Path, overwrite: bool, *, marker: str):
    """Refuse a path that holds something, or something else than what has `marker`.

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
    if not (path / marker).exists():
        raise ValueError(
            f"{path} must be free, but holds something that is not a result. Move it "
            "away, or choose another path."
        )
    if not overwrite:
        raise ValueError(
            f"{path} must be free, but holds another result. Choose another path, or pass "
            "`overwrite=True` (`--overwrite`)."
        )


def replace(part: Path, path: Path):
    """Put `part` in the place of `path`, which is there until `part` is."""
    old = beside(path, "old")
    if path.exists():
        os.rename(path, old)
    try:
        os.rename(part, path)
    except OSError:
        if old.exists():
            os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def beside(path: Path, suffix: str) -> Path:
    """A new name in the same directory, and so on the same disk."""
    path = path.resolve()
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.{suffix}")


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
