"""How far a central flow is off, and how much the limit of the gradient flow rises."""

import xarray as xr

# Steps to settle in at the edge.
SETTLED = 60


def errors(runs: xr.Dataset) -> xr.Dataset:
    """Relative errors of the central flow, and the steps since it came to the edge.

    The oscillation's is relative to the larger one, for either can be none at all. Of runs
    that never come to the edge, errors and steps are `nan`.
    """
    there = runs.eigenvalues.isel(rank=0) >= 0.999 * runs.threshold
    there = there & (runs.step > 0)  # RMSProp may begin above, and leave at once.
    since = (runs.step - there.idxmax("step")).where(there.any("step"))
    descent = runs.sel(trajectory="descent", drop=True)
    central = runs.sel(trajectory="central flow", drop=True)
    seen = {"loss": descent.loss, "sharpness": descent.sharpness}
    seen |= {"corrected sharpness": descent.sharpness}
    said = {"loss": central.loss, "sharpness": central.sharpness}
    said |= {"corrected sharpness": runs.corrected}
    found = {name: abs(said[name] / seen[name] - 1) for name in seen}
    both = runs.oscillation.sel(trajectory=["descent", "central flow"])
    found["oscillation"] = 1 - both.min("trajectory") / both.max("trajectory")
    return xr.Dataset(found).where(since.notnull()).assign(since=since)


def rises(runs: xr.Dataset) -> xr.DataArray:
    """The relative changes of the limit's sharpness from record to record."""
    return runs.limit.diff("step") / runs.limit.shift(step=1)
