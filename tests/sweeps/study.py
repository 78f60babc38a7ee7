"""A small sweep, started as its own process by the tests that kill and resume it."""

import contextlib
import glob
import os
import pathlib
import pickle
import random
import resource
import shutil
import signal
import sys
import time

import dask
import diffrax as dfx
import distributed
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import jaxflow as jf
import jaxflow.sweeps.sweeps

X = np.linspace(-1.0, 1.0, 12).reshape(6, 2)


def settings(cache=None):
    jax.config.update("jax_enable_x64", True)
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def run(key, depth, step_size, scale):
    """A descent of ten steps, which diverges at the largest step size."""
    problem = jf.Regression.from_data(
        jnp.asarray(X), jnp.asarray(X[:, :1] + 0.5 * X[:, 1:])
    )
    start = jf.init.gaussian((*[2] * depth, 1), scale=scale, key=key)
    observe = {"loss": jf.loss_value, "widths": lambda loss, n: jnp.linalg.norm(n.product)}
    return jf.gradient_descent(
        problem, start, 10, step_size=step_size, every=5, observe=observe
    )


def go(path=None, seeds=5, **options):
    """Two static points, each of 20 x 5 x 3 members in chunks of at most 4."""
    axes = {"step_size": np.r_[np.linspace(0.01, 0.2, 19), 1e3], "scale": [0.3, 0.5, 1.0]}
    options = {"chunk": 4, "axes": axes, "static": {"depth": [1, 2]}} | options
    return jf.sweep(run, key=jr.key(3), seeds=seeds, path=path, **options)


def compare(path, reference):
    """Print how many chunks are done; all that is there is that of the reference."""
    wanted = pickle.loads(pathlib.Path(reference).read_bytes())
    chunks = xr.open_dataset(path, engine="zarr", consolidated=False, group="chunks")
    done = int(chunks.done.sum())
    found = jf.load(path).load()
    there = found.status != -1
    assert int(there.sum()) >= done
    xr.testing.assert_equal(found.where(there), wanted.where(there))
    print(done, flush=True)


def refer(reference):
    """Write down what an uninterrupted sweep in memory returns."""
    pathlib.Path(reference).write_bytes(pickle.dumps(go()))


def child(do, *arguments, kill_after=None):
    """Do something in a process of its own, and return how it ended."""
    process = os.fork()
    if process == 0:
        try:
            do(*arguments)
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def crash(path, cache, kills):
    """Kills at random moments. JAX must not have run before a fork, only be imported."""
    settings(cache)
    reference = f"{path}.reference"
    assert child(refer, reference) == 0
    moments, longest, killed = random.Random(0), 1.6, 0
    count = lambda: len(glob.glob(f"{path}/chunks/done/c/*"))
    while killed < int(kills):
        before = count()
        ended = child(go, path, kill_after=moments.uniform(0.05, longest))
        assert ended in (0, -signal.SIGKILL)
        killed += ended != 0
        if os.path.exists(path):
            assert child(compare, path, reference) == 0
        # On any machine, slow or fast or busy: thirty kills between first and last chunk.
        longest *= 1.1 if count() - before < 5 else 0.8
        if ended == 0:
            shutil.rmtree(path)
    assert child(go, path) == 0
    assert child(compare, path, reference) == 0


def finish(path, cache):
    """Do what is left."""
    # A shell that runs the tests in the background makes them ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings(cache)
    go(path, progress=say)


def full(path, cache):
    """Go on after a disk was full, or here, after no file could grow."""
    settings(cache)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    shrink = lambda words: resource.setrlimit(resource.RLIMIT_FSIZE, (50, limit[1]))
    try:
        go(path, progress=shrink)
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        say(error)
    say(f"{(jf.load(path).status != -1).sum().item()} members")
    go(path)


def flows(path, cache):
    """Gradient flows, several to a chunk."""
    settings(cache)
    problem = jf.Regression.from_data(jnp.asarray(X), jnp.asarray(X[:, :1]))

    def flow(key, scale):
        start = jf.init.gaussian((2, 2, 1), scale=scale, key=key)
        options = {"solver": dfx.Tsit5(), "throw": False, "adjoint": dfx.ForwardMode()}
        return jf.gradient_flow(problem, start, np.array([0.0, 0.5, 1.0]), **options)

    axes = {"scale": [0.3, 0.5, 1.0]}
    jf.sweep(flow, key=jr.key(3), seeds=5, axes=axes, chunk=2, path=path)


def sharded(path, cache):
    """Sweeps whose data are spread over the devices, beside the same data on the host."""
    settings(cache)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    spread = lambda a: jax.device_put(a, jax.sharding.NamedSharding(mesh, spec))
    x, y = np.arange(24.0).reshape(8, 3) / 24, np.arange(8.0)[:, None]
    keys = np.asarray(jr.key_data(jr.split(jr.key(7))))

    def results(x, y, keys, s):
        options = {"key": jr.key(3), "seeds": 2, "chunk": 2, "axes": {"s": s}}
        go = lambda run, **more: jf.sweep(run, **options, **more)
        loss = jf.MeanSquaredError(x, y)
        start = lambda key, s: jf.init.gaussian((3, 3, 1), scale=s, key=key)
        descend = lambda key, s: jf.gradient_descent(loss, start(key, s), 5, step_size=s)
        keyed = jr.wrap_key_data(keys)
        return {
            "closure": go(lambda key, s: {"v": s * jnp.sum(jnp.sin(x))}),
            "matrix": go(lambda key, s: {"v": s * (x.T @ x) + jr.normal(key)}),
            "partial": go(eqx.Partial(lambda x, key, s: {"v": s * x}, x)),
            "scan": go(lambda key, s: {"v": jax.lax.map(lambda row: s * row, x)}),
            "static": go(lambda key, s, d: {"v": s * d}, static={"d": {"y": y, "-y": -y}}),
            "keys": go(lambda key, s: {"v": s * jr.key_data(keyed).astype(float)}),
            "descent": go(descend),
        }

    s = np.array([0.01, 0.02, 0.03, 0.04])
    host = results(x, y, keys, s)
    for name, runs in results(spread(x), spread(y), spread(keys), spread(s)).items():
        xr.testing.assert_allclose(runs, host[name], rtol=1e-12)
        say(name)
    slope = jax.grad(lambda w, x: jnp.sum((x @ w) ** 2))
    there = spread(x)
    try:
        run = lambda key, s: {"v": slope(s * jnp.ones(3), there)}
        jf.sweep(run, key=jr.key(0), seeds=2, axes={"s": s})
    except ValueError as error:
        say(error)


def say(words):
    print(words, flush=True)


@contextlib.contextmanager
def cluster(**options):
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None} | options
    with (
        distributed.LocalCluster(**options) as processes,
        distributed.Client(processes) as client,
    ):
        yield client


def lose_a_worker(path, cache):
    """A worker dies when the first chunks are there."""
    settings(cache)
    with cluster() as client:
        victims = list(client.run(os.getpid).values())[:1]
        kill = lambda words: victims and os.kill(victims.pop(), signal.SIGKILL)
        go(path, client=client, progress=kill)
        assert not victims


def deadly(key, number):
    """Ends the process that computes it, if the number is 3."""

    def end(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    like = jax.ShapeDtypeStruct((), number.dtype)
    return {"same": jax.pure_callback(end, like, number, vmap_method="sequential")}


def poison(path, cache):
    """One of six chunks kills every worker that takes it."""
    settings(cache)
    dask.config.set({"distributed.scheduler.allowed-failures": 1})
    axes = {"number": np.arange(6.0)}
    with cluster() as client:
        try:
            jf.sweep(
                deadly, key=jr.key(0), seeds=1, axes=axes, chunk=1, path=path, client=client
            )
        except RuntimeError as error:
            say(error)
    say(jf.load(path)["same"].to_numpy().tolist())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
