"""A small sweep, started as its own process by the tests that kill and resume it."""

import os
import random
import signal
import sys
import time

import distributed
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import jaxflow as jf
from jaxflow.experiments import cluster  # noqa: F401  (imported before a fork)

X = np.linspace(-1.0, 1.0, 12).reshape(6, 2)


def settings(cache=None):
    jax.config.update("jax_enable_x64", True)
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def run(key, depth, step_size, scale):
    """A descent of ten steps, which diverges at the largest step size."""
    problem = jf.regression(jnp.asarray(X), jnp.asarray(X[:, :1] + 0.5 * X[:, 1:]))
    start = jf.init.gaussian((*[2] * depth, 1), scale=scale, key=key)
    observe = {"loss": jf.value, "widths": lambda loss, n: jnp.linalg.norm(n.product)}
    return jf.gradient_descent(
        problem, start, 10, step_size=step_size, every=5, observe=observe
    )


def go(path=None, seeds=5, **options):
    """Two loop points, each of 20 x 5 x 3 members in chunks of at most 4."""
    axes = {"step_size": np.r_[np.linspace(0.01, 0.2, 19), 1e3], "scale": [0.3, 0.5, 1.0]}
    options = {"chunk": 4, "axes": axes, "loop": {"depth": [1, 2]}} | options
    return jf.sweep(run, key=jr.key(3), seeds=seeds, path=path, **options)
