"""What figures and tables say of many runs: shares with intervals, and a fit."""

from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import binomtest, linregress

from ..dynamics import Status
from ..sweeps.sinks import PENDING


def divergence(ends: xr.Dataset, over: str | None = None) -> tuple[np.ndarray, ...]:
    """The share of runs that diverged, and the ends of Wilson's 95% interval.

    Args:
        ends: Runs at their last record; those that are pending do not count.
        over: The dimension that a share is of, if not all.
    """
    there = ends.status >= 0
    bad = (there & ends.excess.isnull()).sum(over).to_numpy()
    count = there.sum(over).to_numpy()
    interval = lambda some, of: binomtest(some, of).proportion_ci(method="wilson")
    limits = lambda some, of: (interval(some, of).low, interval(some, of).high)
    return np.asarray(bad / count), *np.vectorize(limits)(bad, count)


def verdicts(status: xr.DataArray) -> str:
    """How many runs ended how; of a single one only how."""
    names = {PENDING: "pending"} | {kind: kind.name.lower() for kind in Status}
    counts = [(int((status == kind).sum()), name) for kind, name in names.items()]
    return ", ".join(name if status.size == 1 else f"{n} {name}" for n, name in counts if n)


def gaps(runs: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Sharpness and generalization gap at the ends of usable runs with a positive gap."""
    ends = usable(runs).isel(record=-1)
    x, y = ends.sharpness.to_numpy().ravel(), ends.generalization_gap.to_numpy().ravel()
    ok = (x > 0) & (y > 0)
    return x[ok], y[ok]


def gap_regression(runs: xr.Dataset) -> Any:
    """The least-squares line of log generalization gap on log sharpness, of `gaps`.

    The p-value is that of a slope this large if there were none.
    """
    x, y = map(np.log10, gaps(runs))
    return linregress(x, y, alternative="greater")


def usable(runs: xr.Dataset) -> xr.Dataset:
    """The runs at a minimum, around one, or on their way; the others are `nan`."""
    ends = (Status.CONVERGED, Status.OSCILLATING, Status.UNCONVERGED)
    return runs.where(runs.status.isin(ends))
