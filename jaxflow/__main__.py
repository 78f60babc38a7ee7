"""The command line: `jaxflow list`, `jaxflow run EXPERIMENT [OPTIONS]`."""

import functools as ft
import importlib.metadata
import inspect
import json
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from .experiments import catalogue


def main():
    """Answer the command line; mistakes that a user can mend take one line, and exit 2."""
    try:
        _app()(sys.argv[1:])
    except ValueError as error:
        print(f"jaxflow: {error}", file=sys.stderr)
        sys.exit(2)


def _app():
    try:
        from cyclopts import App, Parameter
    except ImportError:
        raise ValueError("The command line needs `pip install 'jaxflow[run]'`.") from None
    several = Parameter(consume_multiple=True, negative=())
    app = App(
        name="jaxflow",
        version=importlib.metadata.version("jaxflow"),
        help="Training dynamics, simulated and predicted.",
        default_parameter=several,
    )
    app.command(_list, name="list")
    runs = App(name="run", help="Run an experiment: results, figures and a table.")
    for name in catalogue.EXPERIMENTS:
        runs.command(_command(name), name=name)
    app.command(runs)
    return app


def _list():
    """List the experiments."""
    for name, summary in catalogue.EXPERIMENTS.items():
        print(f"{name}: {summary}")


def _command(name: str):
    """The command whose options are the arguments of an experiment, and where it goes."""
    from cyclopts import Parameter

    experiment = catalogue.load_experiment(name)

    def command(*, out=None, overwrite=False, float64=True, **arguments):
        defaults = {parameter.name: parameter.default for parameter in own}
        _run(name, experiment, defaults | arguments, out, overwrite, float64)

    option = ft.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    where = "Directory for the results. By default `results/EXPERIMENT-DATA`."
    common = (
        ("out", None, Annotated[Path | None, Parameter(help=where)]),
        ("overwrite", False, Annotated[bool, Parameter(help="Replace results there.")]),
        (
            "float64",
            True,
            Annotated[bool, Parameter(help="Double precision.", negative="--float32")],
        ),
    )
    arguments = inspect.signature(experiment.run).parameters.values()
    own = [parameter for parameter in arguments if parameter.name != "progress"]
    shared = [
        option(name, default=default, annotation=hint) for name, default, hint in common
    ]
    command.__signature__ = inspect.Signature([*own, *shared])  # pyright: ignore
    command.__annotations__ = {p.name: p.annotation for p in [*own, *shared]}
    command.__doc__ = experiment.run.__doc__
    return command


def _run(
    name: str,
    experiment: ModuleType,
    arguments: dict[str, Any],
    out: Path | None,
    overwrite: bool,
    float64: bool,
):
    from .experiments.store import beside, check_free, provenance, replace

    stem = Path(arguments.get("data", "")).stem
    out = Path("results", f"{name}-{stem}" if stem else name) if out is None else out
    check_free(out, overwrite, marker="run.json")
    # Everything is written beside `out` first, where a full or closed disk shows at once.
    part, new = beside(out, "part"), not out.parent.exists()
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"{out} must be a path to write to, but {error}.") from error
    try:
        started = time.perf_counter()
        clock = lambda: time.perf_counter() - started
        say = lambda words: print(f"[{clock():5.1f} s] {words}", flush=True)
        _enable(float64)
        tree = experiment.run(**arguments, progress=say)
        table = experiment.summary(tree)
        tree.attrs.update(provenance(name, arguments) | {"seconds": round(clock(), 1)})
        _write(part, tree, table, experiment.figures(tree))
        replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if new and not any(out.parent.iterdir()):
            out.parent.rmdir()
    print(experiment.headline(tree))
    _show(table)
    say(f"results, {len(list(out.glob('*.png')))} figures and the table are in {out}")


def _enable(float64: bool):
    import jax

    jax.config.update("jax_enable_x64", float64)


def _write(directory, tree, table, figures):
    from .experiments.store import save

    save(tree, directory / "results.zarr")
    for title, figure in figures.items():
        figure.savefig(directory / f"{title}.png", dpi=150)
    table.to_csv(directory / "summary.csv", index=False)
    (directory / "run.json").write_text(json.dumps(tree.attrs, indent=2) + "\n")


def _show(summary):
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # Zero shares make the table wider, and no wiser.
    empty = [name for name in summary if (summary[name] == "0%").all()]
    summary = summary.drop(columns=empty)
    table = Table(*summary.columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in summary.itertuples(index=False):
        table.add_row(*map(str, row))
    console = Console()
    console.width = max(console.width, 160)  # Better wrapped by the terminal than cut.
    console.print(table)


if __name__ == "__main__":
    main()
