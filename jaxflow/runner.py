"""Running an experiment: its processes, what is kept on the way, and what is left."""

import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from ._linalg.backend import on_cpu
from .report import print_table
from .sweeps.owned import building, check_free, remove, replace, stamp, stamped
from .sweeps.paths import local_path
from .sweeps.programs import cores
from .sweeps.store import load, provenance, save
from .sweeps.sweeps import sweep


class Settings(NamedTuple):
    """What a run computes in, and where."""

    float64: bool
    scheduler: str | None


def run(
    name: str,
    experiment: ModuleType,
    arguments: dict[str, Any],
    out: Path | None,
    overwrite: bool,
    settings: Settings,
):
    """Run an experiment to the end, or go on with it: results, figures and table in `out`.

    Raises:
        ValueError: If `out` is something else, or holds a run of another request.
    """
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
    print_table(table)
    say(f"results, {len(list(out.glob('*.png')))} figures and the table are in {out}")


def _interrupted(*_):
    """Stop at once: what computes would not listen, and all that is done is safe."""
    print("\njaxflow: interrupted; the same command goes on from here", file=sys.stderr)
    os._exit(130)


# The stamps of a run that is done, and of one that is not; what the other one holds.
_RUN, _REQUEST, _SWEEPS = "run.json", "unfinished.json", "sweeps"


def _begin(part: Path, request: dict[str, Any], overwrite: bool):
    """A directory for a run, which may be an interrupted one of the same request."""
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


def _sweeper(stores: Path, settings: Settings, say: Callable[[str], Any]):
    """How experiments sweep: each sweep in a store, and in a process of its own.

    On a CPU there is a process for every core, so that several sweeps compile and run at
    once; other devices, or a cluster, take the chunks of one sweep after the other.
    """
    jax.config.update("jax_enable_x64", settings.float64)
    client = _client(settings.scheduler)
    alone = client is not None or not on_cpu() or cores() == 1
    pool = None if alone else _workers(cores(), settings.float64)

    def call(name, run, **options):
        # From here on there may be results to go on from, whatever fails.
        stores.mkdir(exist_ok=True)
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
