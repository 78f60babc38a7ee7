"""How the library's own programs are compiled, where they are no part of others.

Much of a first call goes into optimizations of XLA that programs of this kind do not gain
from: with the options here a CPU compiles in some .6 of the time (`docs/speed.md`). What is
called in `jax.jit`, `jax.grad` or `jax.vmap` is compiled as all around it.
"""

import functools as ft
import os
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import concrete_or_error

from ._linalg.backend import on_cpu

Function = TypeVar("Function", bound=Callable[..., Any])

# What turns them off, set to anything.
SWITCH = "JAXFLOW_OPTIMIZE"
_OPTIONS = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": 1,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}


def program(function: Function) -> Function:
    """`equinox.filter_jit`, with `options` where it is not part of another program."""
    part = eqx.filter_jit(function)

    @ft.cache
    def quick(given):
        return eqx.filter_jit(function, compiler_options=dict(given))  # pyright: ignore

    @ft.wraps(function)
    def call(*args, **kwargs):
        given = options()
        if not given or traced((args, kwargs)):
            return part(*args, **kwargs)
        return quick(tuple(given.items()))(*args, **kwargs)

    return call  # pyright: ignore[reportReturnType]


def options() -> dict[str, Any]:
    """Compiler options, which are the user's own where there are any."""
    none = jax.config.read("jax_disable_most_optimizations")  # pyright: ignore
    if none or os.environ.get(SWITCH) or not on_cpu():
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in _available() if name not in flags}


@ft.cache
def _available() -> tuple[tuple[str, Any], ...]:
    """What this version of XLA knows of them."""

    def has(name):
        identity = jax.jit(lambda x: x, compiler_options={name: _OPTIONS[name]})
        try:
            identity.lower(jax.ShapeDtypeStruct((), jnp.float32)).compile()
        except Exception:  # Of JAX's runtime, which has no public class for it.
            return False
        return True

    with jax.ensure_compile_time_eval():
        return tuple((name, value) for name, value in _OPTIONS.items() if has(name))


def traced(arguments: Any) -> bool:
    """Whether a call is part of another program, by its arguments or by where it is."""
    given = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arguments))
    return given or _staged()


def known(arguments: Any) -> bool:
    """Whether all values are there, as they are in `jax.grad` outside of `jax.jit`."""
    try:
        for leaf in jax.tree.leaves(arguments):
            if isinstance(leaf, Tracer):
                concrete_or_error(None, leaf)
    except jax.errors.ConcretizationTypeError:
        return False
    return not _staged()


def _staged() -> bool:
    """Whether even constants are values of a program that is being traced."""
    return isinstance(jnp.zeros(()), Tracer)
