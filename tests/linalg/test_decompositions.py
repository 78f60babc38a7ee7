"""Batches of decompositions: values of each member, JAX's derivatives, and no hang."""

import functools as ft
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxflow._linalg import decompositions

A = jr.normal(jr.key(0), (2, 3, 4, 4))
S = A @ A.mT + jnp.eye(4)[None, None]
TALL = jr.normal(jr.key(1), (2, 3, 5, 4))
B = jr.normal(jr.key(2), (2, 3, 4))

ours, jax_own, triangular = decompositions, jnp.linalg, jax.scipy.linalg.solve_triangular
CASES = {
    "eigh": (ours.eigh, jax_own.eigh, S),
    "eigvalsh": (ours.eigvalsh, jax_own.eigvalsh, S),
    "svd": (ours.svd, jax_own.svd, A),
    "thin svd": (
        ft.partial(ours.svd, full_matrices=False),
        ft.partial(jax_own.svd, full_matrices=False),
        TALL,
    ),
    "svdvals": (ours.svdvals, jax_own.svdvals, TALL),
    "spectral norm": (ours.spectral_norm, ft.partial(jax_own.norm, ord=2), TALL),
    "pinv": (ours.pinv, jax_own.pinv, TALL),
    "hermitian pinv": (
        ft.partial(ours.pinv, hermitian=True),
        ft.partial(jax_own.pinv, hermitian=True),
        S,
    ),
    "det": (ours.det, jax_own.det, A),
    "cholesky": (ours.cholesky, jax_own.cholesky, S),
    "qr": (ours.qr, jax_own.qr, TALL),
    "inv": (ours.inv, jax_own.inv, A),
    "solve": (ours.solve, jax_own.solve, A, B),
    "solve, columns": (ours.solve, jax_own.solve, A, S),
    "triangular": (ours.solve_triangular, triangular, S, B),
    "transposed triangular": (
        ft.partial(ours.solve_triangular, trans=1, lower=True),
        ft.partial(triangular, trans=1, lower=True),
        S,
        A,
    ),
}


def flat(tree):
    return jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])


def nested(function, *arguments):
    return jax.jit(jax.vmap(jax.vmap(function)))(*arguments)


def total(function):
    return lambda *arguments: jnp.sum(jnp.sin(flat(function(*arguments))))


def pushed(function):
    return lambda *x: jax.jvp(function, x, tuple(map(jnp.cos, x)))


def pulled(function):
    return lambda *x: jax.grad(total(function), argnums=range(len(x)))(*x)


def twice(function):
    return jax.hessian(total(function))


def twice_in_reverse(function):
    return jax.grad(lambda *x: jnp.sum(jax.grad(total(function))(*x) ** 2))


@pytest.mark.parametrize("name", CASES)
def test_each_member_of_a_batch_is_decomposed_as_if_alone(name):
    function, reference, *arguments = CASES[name]
    found = nested(function, *arguments)
    for i, j in np.ndindex(2, 3):
        member = [x[i, j] for x in arguments]
        alone = [*map(np.asarray, jax.tree.leaves(reference(*member)))]
        for mine in (found, jax.tree.map(lambda x: x[None, None], function(*member))):
            at = (i, j) if mine is found else (0, 0)
            leaves = jax.tree.leaves(mine)
            assert all(map(np.array_equal, [np.asarray(x)[at] for x in leaves], alone))


@pytest.mark.parametrize("derivative", [pushed, pulled, twice, twice_in_reverse])
@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_jax(name, derivative):
    function, reference, *arguments = CASES[name]
    expected = flat(nested(derivative(reference), *arguments))
    found = flat(nested(derivative(function), *arguments))
    # Rounding, times the condition of these matrices, cubed in second derivatives.
    scale = float(jnp.max(jnp.abs(expected)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("derivative", [lambda f: f, pushed, pulled, twice])
@pytest.mark.parametrize("name", CASES)
def test_no_derivative_decomposes_a_batch(name, derivative):
    """Nor one in which only slopes are batches, as in a Jacobian."""
    function, _, *arguments = CASES[name]
    program = jax.jit(jax.vmap(jax.vmap(derivative(function)))).lower(*arguments).as_text()
    calls = [line for line in program.splitlines() if "@lapack" in line]
    assert calls
    assert not [line for line in calls if re.search(r"tensor<(\d+x){3,}", line)]


def test_a_stack_of_matrices_is_a_batch():
    np.testing.assert_array_equal(
        decompositions.svdvals(TALL), nested(jax_own.svdvals, TALL)
    )


def test_singular_determinants_have_slopes():
    singular = jnp.ones((4, 4)).at[0, 0].set(2.0).at[1, 1].set(3.0)
    expected = jax.grad(jnp.linalg.det)(singular)
    np.testing.assert_allclose(jax.grad(decompositions.det)(singular), expected, atol=1e-14)


def test_batches_never_wait_for_ever():
    """With two cores, in a process with the settings that users have."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core has one thread, which waits for no other")
    script = Path(__file__).parents[1] / "hang.py"
    command = [sys.executable, str(script), "--minutes", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
