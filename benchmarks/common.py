"""What the benchmarks share: data, starts, a clock, and a printer."""

import json
import math
import platform
import time
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import jax.random as jr

import jaxflow

TINY = (5,) * 10 + (1,)


def data(inputs, samples):
    """Gaussian inputs, one noisy linear output, least-squares solution of norm one."""
    keys = jr.split(jr.key(0), 3)
    x = jr.normal(keys[0], (samples, inputs))
    y = x @ jr.normal(keys[1], (inputs,)) + jr.normal(keys[2], (samples,))
    return x, y / jnp.linalg.norm(jnp.linalg.pinv(x) @ y)


def start(key, widths=TINY):
    """Gaussian weights of scale 0.35 at width 5, and the same gain at others."""
    return jaxflow.init.gaussian(widths, scale=0.35 * (5 / widths[0]) ** 0.5, key=key)


def measure(call, *args, budget=0.3):
    """What `call(*args)` returns, and its times in milliseconds.

    A run is the median of at least three warm calls, and of more while `budget` seconds
    last. Compiling is what the first call takes beyond a run.
    """
    first, value = _clock(call, args)
    seconds = []
    while len(seconds) < 3 or (sum(seconds) < budget and len(seconds) < 200):
        seconds.append(_clock(call, args)[0])
    run = median(seconds)
    return value, {"run_ms": 1e3 * run, "compile_ms": 1e3 * max(first - run, 0)}


def _clock(call, args):
    started = time.perf_counter()
    value = jax.block_until_ready(call(*args))
    return time.perf_counter() - started, value


def report(question, rows):
    """Print each row as JSON as soon as it is there, then all of them as a table.

    `ratio` is the time of a row over that of the first row of its case.
    """
    first, shown = {}, []
    for row in rows:
        reference = first.setdefault(row["case"], row["run_ms"])
        if row["run_ms"] is not None:
            row["ratio"] = row["run_ms"] / reference
        print(json.dumps({name: _plain(cell) for name, cell in row.items()}), flush=True)
        shown.append(row)
    names = list(dict.fromkeys(name for row in shown for name in row))
    table = [names, *([_text(row.get(name)) for name in names] for row in shown)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(f"\n{question}\n{_device()}, jax {jax.__version__}")
    for line in table:
        cells = zip(line, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())


def _plain(cell):
    """A cell as JSON allows it, which knows neither arrays nor nan."""
    if cell is None or isinstance(cell, str | int):
        return cell
    return float(cell) if math.isfinite(cell) else None


def _text(cell):
    if cell is None:
        return "-"
    if isinstance(cell, str | int):
        return str(cell)
    return f"{float(cell):.3g}" if abs(cell) < 1000 else f"{float(cell):.0f}"


def _device():
    """What runs the benchmark, in words."""
    device, info = jax.devices()[0], Path("/proc/cpuinfo")
    if device.platform != "cpu":
        return device.device_kind
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} cores of {models[0]}" if models else platform.machine()
