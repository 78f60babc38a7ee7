"""Data that losses are made of, checked."""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .. import _checks


def check_data(name, x, y, readout):
    """Inputs, targets and a readout that fit, as real arrays of one precision."""
    x, y = check_real(name, x=x, y=y)
    y = y[:, None] if y.ndim == 1 else y
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"`{name}(x, y)` must hold one sample a row in each, but the shapes are "
            f"{x.shape} and {y.shape}."
        )
    if 0 in x.shape or 0 in y.shape:
        raise ValueError(
            f"`{name}(x, y)` must hold data, but the shapes are {x.shape} and {y.shape}."
        )
    if readout is not None:
        readout = jnp.atleast_2d(_checks.numbers(f"{name}(readout=...)", readout))
        readout = readout.astype(x.dtype)
        if readout.ndim != 2 or readout.shape[0] != y.shape[1]:
            raise ValueError(
                f"`{name}(readout=...)` must have a row for each of {y.shape[1]} outputs, "
                f"but has shape {readout.shape}."
            )
    check_finite(name, x=x, y=y, readout=readout)
    return x, y, readout


def check_real(name, **arrays):
    """Real arrays of one precision."""
    found = [_checks.numbers(f"{name}({what}=...)", a) for what, a in arrays.items()]
    dtype = jnp.result_type(*found)
    return [a.astype(dtype) for a in found]


def check_finite(name, **arrays):
    """Raise where what is known is not finite."""
    for what, values in arrays.items():
        if values is None or isinstance(values, Tracer):
            continue
        if bad := np.argwhere(~np.isfinite(np.asarray(values))).tolist():
            raise ValueError(
                f"`{name}({what}=...)` must be finite, but {len(bad)} of {values.size} "
                f"entries are not, the first at index {tuple(bad[0])}. Drop or fill them."
            )
