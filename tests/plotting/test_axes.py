"""One list of axes: flags, results and figures use its names."""

import inspect
from typing import get_args, get_origin

import numpy as np
import pytest
import xarray as xr

from jaxflow.papers import catalogue
from jaxflow.papers._experiment import layered
from jaxflow.plotting.axes import AXES, axis_label


@pytest.mark.parametrize("name", catalogue.EXPERIMENTS)
def test_flags_of_several_values_are_named_after_axes(name):
    """But for those that choose parts of an experiment, or classes of data."""
    arguments = inspect.signature(catalogue.load_experiment(name).run).parameters
    for name, argument in arguments.items():
        several = tuple in map(get_origin, get_args(argument.annotation))
        if several and name not in ("only", "classes"):
            assert name.removeprefix("residual_").removesuffix("s") in AXES


def test_numbered_axes_are_entries_of_a_quantity():
    assert axis_label("singular_values_1", {}) == "entry of singular values"
    assert axis_label("step_size", {}) == "step size"
    assert axis_label("bias_2000", {"units": "V"}) == "entry of bias [V]"


def test_layers_and_pairs_of_layers_are_counted_from_one():
    """Of several observables that have the same ones."""
    sizes = {"alignment": 3, "imbalance": 3, "coupling": 4, "other": 2}
    runs = xr.Dataset({name: (f"{name}_0", np.ones(n)) for name, n in sizes.items()})
    named = layered(runs.assign_attrs(depth=4))
    assert dict(named.sizes) == {"pair": 3, "layer": 4, "other_0": 2}
    assert named.alignment.dims == named.imbalance.dims == ("pair",)
    assert named.pair.to_numpy().tolist() == [1, 2, 3]
    assert named.attrs == {"depth": 4}
