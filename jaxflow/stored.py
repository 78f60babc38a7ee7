"""What is in a store: figures and tables of any run or sweep, finished or not."""

import json
import os
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from .papers import catalogue
from .papers._statistics import verdicts
from .plotting.axes import axis_label
from .plotting.panels import (
    LOST,
    arrange,
    at_end,
    longest_axis,
    numbers,
    quantities,
    status_of,
)
from .plotting.plots import plot
from .sweeps.paths import local_path
from .sweeps.programs import OWN
from .sweeps.seals import CHUNKS
from .sweeps.sinks import PENDING
from .sweeps.store import Result, holds_sweep, load, open_group

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Panels of a figure.
_MOST = 8


class Stored(NamedTuple):
    """What was found at a path.

    Attributes:
        name: Of the run or the store.
        result: All of it, in memory.
        experiment: The experiment whose results these are, if it is a known one.
        chunks: Of a sweep, how many chunks are done, and how many there are.
        seconds: The time that it took, if that is known.
    """

    name: str
    result: Result
    experiment: ModuleType | None
    chunks: tuple[int, int] | None
    seconds: float | None

    @property
    def branches(self) -> dict[str, xr.Dataset]:
        """The datasets by name; a single one has none."""
        if isinstance(self.result, xr.Dataset):
            return {"": self.result}
        nodes = {node.path.strip("/"): node for node in self.result.subtree}
        some = sorted(name for name, node in nodes.items() if node.data_vars)
        return {name: nodes[name].to_dataset() for name in some}

    @property
    def progress(self) -> str:
        """How much of a sweep is done, in words; nothing if all is."""
        done, count = self.chunks or (0, 0)
        share = f"{done} of {count} chunks done, {done / max(count, 1):.0%}"
        return f"unfinished, {share}" if done < count else ""

    def figures(self) -> "dict[str, Figure]":
        """Those of the experiment, or a panel for each quantity."""
        if self.experiment is not None:
            return self._of_experiment("figures")
        found = {}
        for branch, runs in self.branches.items():
            title = f"{self.name} {branch}".strip()
            title += f": {self.progress}" if self.progress else ""
            for view, panels in _panels(runs).items():
                for k in range(0, len(panels), _MOST):
                    name = f"{branch}/{view}/{1 + k // _MOST if k else ''}".strip("/")
                    figure = _figure(title, panels[k : k + _MOST])
                    found[name.replace("/", "-")] = figure
        if not found:
            raise ValueError(f"{self.name} holds no numbers to draw.")
        return found

    def headline(self) -> str:
        """What the results say, or how much there is."""
        if self.experiment is not None:
            return self._of_experiment("headline")
        known = [status_of(runs) for runs in self.branches.values()]
        ends = [verdicts(status) for status in known if status is not None]
        return "\n".join(filter(None, [self.progress, *ends]))

    def summary(self) -> pd.DataFrame:
        """The table of the experiment, or a row for each quantity at the last record."""
        if self.experiment is not None:
            return self._of_experiment("summary")
        rows = [
            _row(branch, runs, name)
            for branch, runs in self.branches.items()
            for name in sorted(quantities(runs))
        ]
        return pd.DataFrame(_without_empty(rows, "branch"))

    def axes(self) -> pd.DataFrame:
        """The axes of all datasets, and their values."""
        rows = [
            {
                "branch": branch,
                "axis": str(name),
                "size": size,
                "values": _values(runs, str(name)),
                "meaning": axis_label(str(name), runs[name].attrs),
            }
            for branch, runs in self.branches.items()
            for name, size in runs.sizes.items()
        ]
        return pd.DataFrame(_without_empty(rows, "branch"))

    def origin(self) -> dict[str, str]:
        """Where the results come from, as far as that was recorded."""
        attrs = self.result.attrs
        found = {name: str(attrs[name]) for name in _ORIGIN if name in attrs}
        found = {name: words for name, words in found.items() if words not in ("", "None")}
        for name, form in (("arguments", "{}={}"), ("versions", "{} {}")):
            if name in found:
                found[name] = _pairs(found[name], form)
        if "float64" in found:
            found["float64"] = {"1": "yes", "0": "no"}.get(found["float64"], "unknown")
        if self.seconds is not None:
            found["seconds"] = f"{self.seconds:.1f}, computing"
        return found

    def provenance(self) -> pd.DataFrame:
        """The same as a table."""
        rows = self.origin() or {"not recorded": "-"}
        return pd.DataFrame({"provenance": [*rows], "": [*rows.values()]})

    def _of_experiment(self, what: str) -> Any:
        try:
            if not isinstance(self.result, xr.DataTree):
                raise KeyError("a part")
            return getattr(self.experiment, what)(self.result)
        except (KeyError, AttributeError, IndexError) as error:
            raise ValueError(
                f"{self.name} does not hold what this version of the experiment "
                f"{self.result.attrs['experiment']!r} draws ({_first_line(error)})."
            ) from error


_ORIGIN = (
    *("experiment", "arguments", "created", "seconds", "device", "float64"),
    *("platform", "versions", "commit"),
)


def read(path: str | os.PathLike[str]) -> Stored:
    """What is at a path: of `jaxflow run`, of `sweep`, or of `save`.

    Raises:
        ValueError: If there is nothing, or something else, or it cannot be read.
    """
    path = local_path(path)
    if not path.exists():
        raise ValueError(f"There must be results at {path}, but there is nothing.")
    store = path / "results.zarr" if (path / "run.json").is_file() else path
    if not (store / "zarr.json").is_file():
        sweeps = sorted(str(found.parent) for found in path.glob("sweeps/*/zarr.json"))
        hint = f" It holds unfinished sweeps: {', '.join(sweeps)}." if sweeps else ""
        raise ValueError(
            f"{path} must be a store, or the directory of a run, but is neither.{hint}"
        )
    try:
        result, chunks, seconds = load(store).load(), None, None
        if holds_sweep(store):
            with open_group(store, CHUNKS) as found:
                chunks = int(found.done.sum()), found.sizes["chunk"]
                seconds = float(found.seconds.sum())
    # Whatever zarr and its codecs say of files that are not theirs.
    except Exception as error:
        if str(error).startswith(f"{store} cannot be read: "):
            raise
        raise ValueError(f"{store} cannot be read: {_first_line(error)}.") from error
    name = result.attrs.get("experiment")
    experiment = None
    if isinstance(name, str) and name in catalogue.EXPERIMENTS:
        experiment = catalogue.load_experiment(name)
    return Stored(path.resolve().name, result, experiment, chunks, seconds)


def _first_line(error: Exception) -> str:
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0]}" if words else type(error).__name__


def _panels(runs: xr.Dataset) -> "dict[str, list[tuple[xr.Dataset, str, str]]]":
    """What to draw against what: each quantity in time, and at the end.

    Where there are too many axes, some are at their middle values, or first entries.
    """
    views = {}
    end = "at-the-end" if "time" in runs else "values"
    # What sweeps add comes last; time is an axis.
    names = sorted(name for name in quantities(runs) if name not in (*OWN, "step"))
    for name in [
        *names,
        *(name for name in OWN[::-1] if name in runs and name not in ("time", "status")),
    ]:
        first = arrange(runs, name)
        axis = longest_axis(first.values)
        against = {"in-time" if first.in_time else end: first.against}
        if axis not in (None, "record", "seed"):
            against.setdefault(end, axis)
        for view, axis in against.items():
            views.setdefault(view, []).append((_fitting(runs, name, axis), name, axis))
    return views


def _fitting(runs: xr.Dataset, name: str, against: str) -> xr.Dataset:
    surplus = arrange(runs, name, against).surplus
    places = {dim: runs.sizes[dim] // 2 if dim in runs.indexes else 0 for dim in surplus}
    return runs.assign_coords({dim: runs[dim] for dim in surplus}).isel(places)


def _figure(title: str, panels) -> "Figure":
    """Rows of two panels."""
    # Not `pyplot`, which would keep the figures, and show them, by itself.
    from matplotlib.figure import Figure

    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(13, 1 + 3.8 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for axis, (runs, name, against) in zip(axes, panels, strict=False):
        plot(runs, name, against=against, ax=axis)
        if legend := axis.get_legend():  # Here is room, so that it hides nothing.
            legend.set(loc="upper left", bbox_to_anchor=(1, 1), frame_on=False)
    for axis in axes[len(panels) :]:
        axis.remove()
    figure.suptitle(title, fontsize=10)
    return figure


def _row(branch: str, runs: xr.Dataset, name: str) -> dict[str, Any]:
    """A quantity at the last record, of runs that arrived there."""
    values = numbers(runs, name)
    axes = ", ".join(f"{dim}: {size}" for dim, size in values.sizes.items())
    ends = at_end(runs, values).astype(float)
    status = status_of(runs)
    if status is not None and set(status.dims) <= set(ends.dims):
        ends = ends.where(~status.isin([PENDING, *LOST]))
    known = ends.to_numpy()[np.isfinite(ends.to_numpy())]
    ranks = np.quantile(known, [0, 0.5, 1]) if known.size else np.full(3, np.nan)
    told = dict(zip(("least", "median", "largest"), ranks, strict=True))
    row = {"branch": branch, "quantity": name, "axes": axes, "numbers": known.size}
    return row | {word: f"{value:.4g}" for word, value in told.items()}


def _values(runs: xr.Dataset, name: str) -> str:
    """The values of an axis, in short."""
    if name not in runs.indexes:
        return "-"
    values = [_short(value) for value in runs[name].to_numpy().tolist()]
    if len(values) <= 6:
        return ", ".join(values)
    return f"{', '.join(values[:3])}, ..., {values[-1]}"


def _short(value: Any) -> str:
    words = f"{value:.4g}" if isinstance(value, float) else str(value)
    return words if len(words) <= 60 else f"{words[:50]} ... {words[-5:]}"


def _pairs(text: str, form: str) -> str:
    """The entries of an object of JSON in words; what is none stays as it is."""
    try:
        pairs = json.loads(text).items()
    except (ValueError, AttributeError):
        return text
    some = ((name, value) for name, value in pairs if value not in (None, {}, []))
    return ", ".join(form.format(name, _short(value)) for name, value in some)


def _without_empty(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    """Rows without a column that none of them fills."""
    if any(row[column] for row in rows):
        return rows
    return [{name: row[name] for name in row if name != column} for row in rows]
