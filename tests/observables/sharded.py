"""Sharpness inside `jax.shard_map`, on two devices: a process of its own for the test."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import AxisType, PartitionSpec

import jaxflow as jf

x = jr.normal(jr.key(0), (20, 3))
problem = jf.Regression.from_data(x, x @ jnp.ones((3, 1)))


def error(weights):
    return jnp.mean((jnp.tanh(x @ weights[0].T) @ weights[1].T - x[:, :1]) ** 2)


def linear(weights):
    return jf.sharpness(problem, jf.DeepLinear(weights))


def nonlinear(weights):
    return jf.sharpness(error, weights)


def both_ends(weights):
    return jf.spectrum(error, weights, smallest=1).values


def main():
    mesh = jax.make_mesh((2,), ("seeds",), axis_types=(AxisType.Auto,))
    seeds = PartitionSpec("seeds")
    weights = jr.normal(jr.key(2), (4, 3, 3)), jr.normal(jr.key(3), (4, 1, 3))
    for observable in (linear, nonlinear, both_ends):
        expected = jax.vmap(observable)(weights)
        for batch in (jax.vmap, lambda f: lambda w: jax.lax.map(f, w)):
            split = jax.shard_map(
                batch(observable), mesh=mesh, in_specs=(seeds,), out_specs=seeds
            )
            worst = jnp.max(jnp.abs(jax.jit(split)(weights) - expected))
            assert worst < 1e-12 * jnp.max(jnp.abs(expected)), (observable, worst)


if __name__ == "__main__":
    main()
