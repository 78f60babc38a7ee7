"""The axes of results: one list of names, for datasets, stores and figures.

Names are those of the arguments that they are values of, in the singular; flags of the
command line are plural (`step_size`, `--step-sizes`). A name that begins with `exact_` is
the same axis at the points where only theory is evaluated. Everything is in the units of
the data, and time is the sum of step sizes; `step` counts steps at a record, while the
variable `num_steps` is how many a run took in all.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

DECAY = r"weight decay $\gamma$"
DECAY_SHARE = "weight decay over the critical one"
DISTANCE = "distance $d = (1 - S)/2$"
LOAD = r"load $\alpha$, patterns for each weight"
ROBUSTNESS = r"robustness $\gamma$"

AXES = {
    # Of every sweep.
    "seed": "seed",
    "record": "record",
    "time": "training time",
    "step": "step",
    # What runs start from, and how they move.
    "scale": "scale of the initialization",
    "gain": "gain of the initialization",
    "imbalance": "imbalance of the layers",
    "start": "initialization",
    "step_size": "step size",
    "step_size_share": "step size over the critical one",
    "optimizer": "optimizer",
    "algorithm": "algorithm",
    "trajectory": "trajectory",
    "member": "member of the batch",
    # Networks, and their parts.
    "network": "network",
    "kind": "kind of network",
    "machine": "machine",
    "units": "units",
    "activation": "activation",
    "width": "width",
    "depth": "depth, in layers",
    "hidden": "hidden layers",
    "maps": "maps without a skip",
    "layers": "layers",
    "layer": "layer",
    "inner": "layer",
    "pair": "neighboring layers",
    "mode": "mode",
    "rank": "rank of the eigenvalue",
    "weights": "weights",
    "b": "$b$, the weight of each neuron to the output",
    "minimum": "minimum",
    "norm": r"norm of each layer, $\|W_i\|_F$",
    "regime": "strength of decay",
    # Losses and data.
    "decay": DECAY,
    "decay_share": DECAY_SHARE,
    "noise": r"variance of the noise $\sigma^2$",
    "strength": ROBUSTNESS,
    "robustness": ROBUSTNESS,
    "alpha": LOAD,
    "at": LOAD,
    "data": "data",
    "problem": "problem",
    "target": "target",
    "input": "input",
    "inputs": "inputs",
    "input_variance": "variance of the inputs",
    "signal": r"strength of the signal, $|E[x y]|$",
    "white": "white inputs",
    # Where theory is evaluated, and what is measured.
    "exact_scale": "scale of the initialization",
    "exact_decay": DECAY,
    "exact_decay_share": DECAY_SHARE,
    "exact_signal": r"strength of the signal, $|E[x y]|$",
    "root": "solution",
    "share": "share of the way",
    "reference": "reference",
    "curve": "curve",
    "distance": DISTANCE,
    "seen": DISTANCE,
    "radius": r"radius $\epsilon$ of the noise",
    "width_drawn": "width",
    "hidden_drawn": "hidden layers",
    "noise_drawn": r"variance of the noise $\sigma^2$",
}


def axis_label(name: str, attrs: Mapping[Any, Any]) -> str:
    """The name of an axis, with its unit if its attributes have one."""
    quantity, number = _numbered(name)
    words = name if number is None else f"entry of {quantity}"
    return _with_unit(AXES.get(name, words.replace("_", " ")), attrs)


def quantity_label(values: xr.DataArray) -> str:
    """The name of a quantity, with its unit if its attributes have one."""
    return _with_unit(str(values.name).replace("_", " "), values.attrs)


def value_label(name: str, value: Any) -> str:
    """A value of an axis, in a legend."""
    quantity, number = _numbered(name)
    if name not in AXES and number is not None:
        return f"{quantity}[{':, ' * number}{value}]"
    words = name.replace("_", " ")
    if np.asarray(value).dtype.kind in "iuf":
        return f"{words} {value:.4g}"
    return f"{words}: {value}" if isinstance(value, bool | np.bool) else str(value)


def _with_unit(label: str, attrs: Mapping[Any, Any]) -> str:
    label = attrs.get("long_name", label)
    return f"{label} [{attrs['units']}]" if "units" in attrs else label


def _numbered(name: str) -> tuple[str, int | None]:
    """The quantity and the number of an axis that `sweep` numbered."""
    quantity, _, number = name.rpartition("_")
    return (quantity, int(number)) if quantity and number.isdigit() else (name, None)
