"""What a stored sweep is: all that its results depend on, as JSON beside them."""

import importlib.metadata
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from .grid import Point
from .programs import Program, Work
from .sinks import Variable

CODE = "code and data of run"
# What JAX computes with, beside the program.
SETTINGS = ("jax_enable_x64", "jax_threefry_partitionable", "jax_default_matmul_precision")


def specify(
    work: Work,
    key: PRNGKeyArray,
    arrays: Mapping[str, Variable],
    programs: Mapping[Point, Program],
) -> dict[str, Any]:
    """All that the results depend on, as JSON."""
    grid = work.grid
    data = key if work.impl is None else jr.key_data(key)
    return {
        "key": {"data": np.asarray(data).tolist(), "impl": work.impl},
        "seeds": grid.seeds,
        "static": {name: list(values) for name, values in grid.static.items()},
        "axes": {name: values.tolist() for name, values in grid.axes.items()},
        "chunk": math.prod(grid.sides),
        "variables": {
            name: f"{v.dtype}{list(v.shape[len(grid.shape) :])}"
            for name, v in arrays.items()
        },
        CODE: {
            grid.label(point): program.fingerprint for point, program in programs.items()
        },
        **machine(),
    }


def machine() -> dict[str, Any]:
    """What else results depend on: versions, settings of JAX, and the kind of device."""
    versions = {name: importlib.metadata.version(name) for name in ("jaxflow", "jax")}
    settings = {name: str(getattr(jax.config, name)) for name in SETTINGS}
    return {"versions": versions, "settings": settings, "backend": jax.default_backend()}


def stored(path: Path) -> dict[str, Any]:
    """What the sweep is that a path holds.

    Raises:
        ValueError: If the store does not say so.
    """
    root = json.loads((path / "zarr.json").read_text())
    try:
        return json.loads(root["attributes"]["specification"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read: it does not say which sweep it holds ({error!r})."
        ) from error


def check_same(path: Path, specification: Mapping[str, Any]):
    """Refuse a store of another sweep.

    Raises:
        ValueError: If it is another one, with what differs.
    """
    here = json.loads(json.dumps(specification))
    words = list(_differences(stored(path), here))
    if words:
        more = f", and {len(words) - 5} more" if len(words) > 5 else ""
        raise ValueError(
            f"{path} must hold this sweep, but holds another one: "
            f"{'; '.join(words[:5])}{more}. Choose another path, or call `sweep` as it was "
            "called there; `load` reads what is there in any case."
        )


def _differences(there, here, name=""):
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            ours, theirs = here.get(key), there.get(key)
            yield from _differences(theirs, ours, f"{name}.{key}" if name else key)
    elif json.dumps(there) != json.dumps(here):  # There, `nan` is equal to itself.
        yield f"`{name}` is {_short(there)} there and {_short(here)} here"


def _short(value):
    words = json.dumps(value)
    return words if len(words) <= 100 else f"{words[:60]} ... {words[-30:]}"
