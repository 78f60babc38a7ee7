"""The command line: `jaxflow list`, `run EXPERIMENT`, `show STORE` and `report STORE`."""

import functools as ft
import inspect
import os
import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, get_args

from .papers import catalogue


def main():
    """Answer the command line; mistakes that a user can mend take one line, and exit 2."""
    try:
        _app(sys.argv[1:])(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"jaxflow: {error}", file=sys.stderr)
        sys.exit(2)


def _app(words: Sequence[str] = ()):
    """The commands, in full only where the words ask for one: experiments import JAX."""
    try:
        from cyclopts import App, Parameter
    except ImportError:
        raise ValueError("The command line needs `pip install 'jaxflow[run]'`.") from None
    several = Parameter(consume_multiple=True, negative=())
    app = App(
        name="jaxflow",
        version=_version,
        help="Training dynamics, simulated and predicted.",
        default_parameter=several,
    )
    app.command(_list, name="list")
    runs = App(name="run", help="Run an experiment: results, figures and a table.")
    for name, entry in catalogue.EXPERIMENTS.items():
        asked = name in words
        command, summary = (_command(name), None) if asked else (_list, entry.summary)
        runs.command(command, name=name, help=summary)
    app.command(runs)
    app.command(_show, name="show")
    app.command(_report, name="report")
    return app


def _version() -> str:
    from . import __version__

    return __version__


def _list():
    """List the experiments."""
    for name, entry in catalogue.EXPERIMENTS.items():
        print(f"{name}: {entry.summary}")


def _command(name: str):
    """The command whose options are the arguments of an experiment, and where it goes."""
    from cyclopts import Parameter

    _prepare()
    experiment = catalogue.load_experiment(name)

    def command(*, out=None, overwrite=False, float64=True, scheduler=None, **arguments):
        defaults = {parameter.name: parameter.default for parameter in own}
        from .runner import Settings, run

        run(
            name,
            experiment,
            defaults | arguments,
            out,
            overwrite,
            Settings(float64, scheduler),
        )

    option = ft.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    where = (
        "Directory for the results. By default `results/EXPERIMENT-DATA`. A run that was "
        "interrupted goes on when it is asked for again."
    )
    cluster = "Address of a Dask scheduler, whose workers then compute."
    common = (
        ("out", None, Annotated[Path | None, Parameter(help=where)]),
        ("overwrite", False, Annotated[bool, Parameter(help="Replace results there.")]),
        (
            "float64",
            True,
            Annotated[bool, Parameter(help="Double precision.", negative="--float32")],
        ),
        ("scheduler", None, Annotated[str | None, Parameter(help=cluster)]),
    )
    arguments = inspect.signature(experiment.run).parameters.values()
    own = [_strict(parameter) for parameter in arguments if parameter.name not in _HIDDEN]
    shared = [
        option(name, default=default, annotation=hint) for name, default, hint in common
    ]
    command.__signature__ = inspect.Signature([*own, *shared])  # pyright: ignore
    command.__annotations__ = {p.name: p.annotation for p in [*own, *shared]}
    command.__doc__ = experiment.run.__doc__
    return command


def _prepare():
    """What JAX reads when it is imported; whoever has imported it has chosen already."""
    if "jax" in sys.modules:
        return
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(caches / "jaxflow"))
    # Of kernels as small as these one thread computes each fastest.
    single = "--xla_cpu_multi_thread_eigen=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {single}".strip()


def _strict(parameter: inspect.Parameter) -> inspect.Parameter:
    """The same option, with whole numbers that are: Cyclopts makes 2 of 1.5."""
    from cyclopts import Parameter

    hint = parameter.annotation
    parts = {hint, *get_args(hint)}.union(*map(get_args, get_args(hint)))
    if int not in parts:
        return parameter
    return parameter.replace(annotation=Annotated[hint, Parameter(converter=_whole)])


def _whole(kind: Any, tokens: Any) -> Any:
    from cyclopts import convert

    return convert(kind, [_digits(token.keyword, token.value) for token in tokens])


def _digits(option: str, text: str) -> str:
    """A whole number that was written in any way, as digits."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    whole = number.is_finite() and number == number.to_integral_value()
    if not whole or abs(number) >= 2**31:
        raise ValueError(
            f"`{option}` must be a whole number below 2147483648 in size, but is {text}."
        )
    return str(int(number))


def _show(store: Path, /, *, out: Path | None = None, overwrite: bool = False):
    """Draw the figures of a stored run, sweep or dataset, finished or not.

    Those of the experiment, if `jaxflow run` made it; else a panel for each quantity.

    Args:
        store: A directory that `jaxflow run`, `jaxflow.sweep` or `jaxflow.save` made.
        out: Directory for the figures. By default `STORE.figures`, beside the store.
        overwrite: Replace figures there.
    """
    from .report import draw, print_table
    from .stored import read

    found = read(store)
    out = _beside(store, ".figures") if out is None else out
    names = draw(found, out, overwrite)
    print(found.headline())
    print_table(found.axes())
    print_table(found.provenance())
    print(f"{len(names)} figures are in {out}: {', '.join(names)}")


def _report(store: Path, /, *, out: Path | None = None, overwrite: bool = False):
    """Write one page of HTML on a stored run, sweep or dataset, finished or not.

    It holds the figures of `jaxflow show`, the table and where the results come from, and
    needs no other file.

    Args:
        store: A directory that `jaxflow run`, `jaxflow.sweep` or `jaxflow.save` made.
        out: The file. By default `STORE.html`, beside the store.
        overwrite: Replace a report there.
    """
    from .report import write
    from .stored import read

    found = read(store)
    out = _beside(store, ".html") if out is None else out
    write(found, out, overwrite)
    print(f"the report is {out}")


def _beside(store: Path, suffix: str) -> Path:
    store = store.expanduser()
    named = store if store.name not in ("", "..") else store.resolve()
    return named.with_name(named.name + suffix)


# Arguments of experiments that are not options of commands.
_HIDDEN = ("progress", "sweep")
