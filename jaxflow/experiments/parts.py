"""What experiments of several parts share: their choice, their run, table and figures."""

import concurrent.futures
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure


def choose(only: tuple[str, ...] | None, parts: Mapping[str, str]) -> tuple[str, ...]:
    """The parts that were asked for: all of them if none was.

    Raises:
        ValueError: If `only` names something else.
    """
    names = tuple(parts) if only is None else only
    if wrong := [name for name in names if name not in parts]:
        raise ValueError(f"`only` must name some of {', '.join(parts)}, but names {wrong}.")
    return names


def together(
    names: tuple[str, ...],
    jobs: Mapping[str, Callable[[Any], "xr.Dataset"]],
    plan: Any,
    parts: Mapping[str, str],
    progress: Callable[[str], Any],
) -> "xr.DataTree":
    """What jobs return of a plan, in the order of the parts.

    Compiling takes most of the time, and one core; so all at once, in the order of the
    jobs: the longest first.
    """
    import xarray as xr

    def part(name):
        found = jobs[name](plan)
        progress(f"done: {parts[name]}")
        return found

    pool = concurrent.futures.ThreadPoolExecutor(len(jobs))
    try:
        found = {name: pool.submit(part, name) for name in jobs if name in names}
        branches = {name: found[name].result() for name in parts if name in names}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return xr.DataTree.from_dict(branches)


def table(
    tree: "xr.DataTree",
    rows: Mapping[str, Callable[["xr.Dataset"], Iterable[dict[str, Any]]]],
) -> "pd.DataFrame":
    """All rows of all parts, each with the name of its part."""
    import pandas as pd

    found = [
        {"experiment": name, **row}
        for name in tree.children
        for row in rows[name](tree[name].to_dataset())
    ]
    return pd.DataFrame(found).fillna("-")


def pairs(
    tree: "xr.DataTree",
    panels: Mapping[str, Callable[["xr.Dataset", Any], None]],
    titles: Mapping[str, str],
    rows: Mapping[str, int] | None = None,
) -> "dict[str, Figure]":
    """A figure of rows of two panels for each part: of one row, or as many as it has."""
    # Not `pyplot`, which would keep the figures, and show them, by itself.
    from matplotlib.figure import Figure

    drawn = {}
    for name in tree.children:
        count = (rows or {}).get(name, 1)
        figure = Figure(figsize=(11, 4.8 * count), layout="constrained")
        panels[name](tree[name].to_dataset(), figure.subplots(count, 2).ravel())
        figure.suptitle(titles[name], fontsize=10)
        drawn[name] = figure
    return drawn


def titles(paper: str, parts: Mapping[str, str], **data: str) -> dict[str, str]:
    """Those of the figures of a paper; under some, on which data they are."""
    below = {name: f"\n{words}" for name, words in data.items()}
    return {name: f"{paper}: {words}{below.get(name, '')}" for name, words in parts.items()}
