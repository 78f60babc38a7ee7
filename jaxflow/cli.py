"""The command line: `jaxflow list`, `run EXPERIMENT`, `show STORE` and `report STORE`."""

import functools as ft
import inspect
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple, get_args

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

    experiment = catalogue.load_experiment(name)

    def command(*, out=None, overwrite=False, float64=True, scheduler=None, **arguments):
        defaults = {parameter.name: parameter.default for parameter in own}
        settings = _Settings(float64, scheduler)
        _run(name, experiment, defaults | arguments, out, overwrite, settings)

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
    from .report import draw
    from .stored import read

    found = read(store)
    out = _beside(store, ".figures") if out is None else out
    names = draw(found, out, overwrite)
    print(found.headline())
    _print(found.axes())
    _print(found.provenance())
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


class _Settings(NamedTuple):
    """What a run computes in, and where."""

    float64: bool
    scheduler: str | None


def _run(
    name: str,
    experiment: ModuleType,
    arguments: dict[str, Any],
    out: Path | None,
    overwrite: bool,
    settings: _Settings,
):
    from .sweeps.owned import building, check_free, remove, replace, stamp
    from .sweeps.paths import local_path
    from .sweeps.store import provenance, save

    stem = Path(arguments.get("data", "")).stem
    out = Path("results", f"{name}-{stem}" if stem else name) if out is None else out
    out = local_path(out)
    check_free(out, overwrite, marker=_RUN)
    # What is done is kept beside `out`, where a full or closed disk shows at once.
    part, new = out.with_name(f"{out.name}.unfinished"), not out.parent.exists()
    _begin(part, {"experiment": name, **arguments}, overwrite)
    before = signal.signal(signal.SIGINT, _interrupted)
    try:
        started = time.perf_counter()
        clock = lambda: time.perf_counter() - started
        say = lambda words: print(f"[{clock():5.1f} s] {words}", flush=True)
        sweep = _sweeper(part / _SWEEPS, settings, say)
        tree = experiment.run(**arguments, sweep=sweep, progress=say).load()
        table = experiment.summary(tree)
        tree.attrs.update(provenance(name, arguments) | {"seconds": round(clock(), 1)})
        figures = {f"{title}.png": f for title, f in experiment.figures(tree).items()}
        with building(out) as whole:
            save(tree, whole / "results.zarr")
            for title, figure in figures.items():
                figure.savefig(whole / title, dpi=150)
            table.to_csv(whole / "summary.csv", index=False)
            stamp(whole / _RUN, tree.attrs, ["results.zarr", "summary.csv", *figures])
            replace(whole, out, marker=_RUN)
        remove(part, marker=_REQUEST)
    finally:
        signal.signal(signal.SIGINT, before)
        if not (part / _SWEEPS).exists():
            remove(part, marker=_REQUEST)
        if new and out.parent.exists() and not any(out.parent.iterdir()):
            out.parent.rmdir()
    print(experiment.headline(tree))
    _print(table)
    say(f"results, {len(list(out.glob('*.png')))} figures and the table are in {out}")


def _interrupted(*_):
    """Stop at once: what computes would not listen, and all that is done is safe."""
    print("\njaxflow: interrupted; the same command goes on from here", file=sys.stderr)
    os._exit(130)


# The stamps of a run that is done, and of one that is not; what the other one holds.
_RUN, _REQUEST, _SWEEPS = "run.json", "unfinished.json", "sweeps"


def _begin(part: Path, request: dict[str, Any], overwrite: bool):
    """A directory for a run, which may be an interrupted one of the same request."""
    from .sweeps.owned import check_free, remove, stamp, stamped

    request = json.loads(json.dumps(request))
    check_free(part, True, marker=_REQUEST)
    try:
        if overwrite:
            remove(part, marker=_REQUEST)
        part.mkdir(parents=True, exist_ok=True)
        if not any(part.iterdir()):
            stamp(part / _REQUEST, {"request": request}, [_SWEEPS])
    except OSError as error:
        raise ValueError(
            f"{part.parent} must be a place to write to, but {error}."
        ) from error
    asked = (stamped(part / _REQUEST) or {}).get("request")
    if asked != request:
        asked = asked if isinstance(asked, dict) else {}
        names = [name for name in request if asked.get(name) != request[name]]
        told = ", ".join(f"{name} was {asked.get(name)}" for name in names)
        raise ValueError(
            f"{part} holds an interrupted run of another request ({told}). Repeat that "
            "one, start afresh with `--overwrite`, or choose another `--out`."
        )


def _sweeper(stores: Path, settings: _Settings, say: Callable[[str], Any]):
    """How experiments sweep: each sweep in a store, and in a process of its own.

    On a CPU there is a process for every core, so that several sweeps compile and run at
    once; other devices, or a cluster, take the chunks of one sweep after the other.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    if "jax" not in sys.modules:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(caches / "jaxflow"))
        # Of kernels as small as these one thread computes each fastest.
        single = "--xla_cpu_multi_thread_eigen=false"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {single}".strip()
    import jax
    import numpy as np

    from ._linalg.backend import on_cpu
    from .sweeps.programs import cores
    from .sweeps.store import load
    from .sweeps.sweeps import sweep

    jax.config.update("jax_enable_x64", settings.float64)
    client = _client(settings.scheduler)
    alone = client is not None or not on_cpu() or cores() == 1
    pool = None if alone else _workers(cores(), settings.float64)

    def call(name, run, **options):
        options |= {"path": stores / name}
        tell = lambda words: say(f"{name}: {words}")
        if pool is None:
            return sweep(run, client=client, progress=tell, **options)
        # Keys have no pickled form.
        key = options.pop("key")
        data, kind = jax.random.key_data(key), str(jax.random.key_impl(key))
        started = time.perf_counter()
        pool.submit(_sweep_in_worker, name, run, np.asarray(data), kind, options).result()
        tell(f"done in {time.perf_counter() - started:.0f} s")
        return load(stores / name)

    return call


def _workers(count: int, float64: bool):
    """Processes that sweep, made once; each has one thread, which is fastest for one."""
    import warnings

    from loky import get_reusable_executor

    # Compiled programs take memory, of which a fresh process has none; that is all.
    warnings.filterwarnings("ignore", message="A worker was restarted")
    single = {"NPROC": "1", "JAX_NUM_CPU_DEVICES": "1", "OPENBLAS_NUM_THREADS": "1"}
    single |= {"JAX_ENABLE_X64": str(int(float64))}
    start = {"initializer": _follow, "initargs": (os.getpid(),)}
    return get_reusable_executor(max_workers=count, env=single, timeout=600, **start)


def _follow(parent: int):
    """In a worker: leave interrupts to the process that asked, and end when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _sweep_in_worker(name, run, data, kind, options):
    import jax

    from .sweeps.sweeps import sweep

    key = jax.random.wrap_key_data(data, impl=kind)
    tell = lambda words: print(f"          {name}: {words}", flush=True)
    sweep(run, key=key, progress=tell, **options)


def _client(scheduler: str | None) -> Any:
    """The cluster of a scheduler, if there is one."""
    if scheduler is None:
        return None
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("`--scheduler` needs `pip install 'jaxflow[dask]'`.") from None
    return Client(scheduler)


def _print(summary):
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from .papers._experiment import brief

    summary = brief(summary)
    table = Table(*summary.columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in summary.itertuples(index=False):
        table.add_row(*map(str, row))
    console = Console()
    console.width = max(console.width, 160)  # Better wrapped by the terminal than cut.
    console.print(table)
