"""What a run prints: its numbers if it has some, and shapes if not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf

CONVERGED, DIVERGED = int(jf.Status.CONVERGED), int(jf.Status.DIVERGED)


def run(losses=(4.0, 2.0, 0.5), status=CONVERGED, step=True, edge=None):
    losses = jnp.asarray(losses)
    observed = {
        "loss": losses,
        "ends": {"lowest": -losses, "far": losses > 1},
        "alignment": jnp.ones((3, 2)),
        "net": jax.vmap(lambda _: jf.DeepLinear((jnp.ones((2, 2)),)))(losses),
    }
    return jf.Trajectory(
        time=jnp.array([0.0, 0.1, 0.2]),
        observed=observed,
        network=jf.DeepLinear((jnp.ones((3, 2)), jnp.ones((1, 3)))),
        num_steps=jnp.asarray(20),
        status=jnp.asarray(status, jnp.int32),
        predicted_decrease=jnp.asarray(0.0),
        record_steps=jnp.array([0, 10, 20]) if step else None,
        edge=edge,
    )


def batch():
    losses = jnp.array([[4.0, 2, 1], [5.0, 3, 2], [4.0, 1e9, jnp.nan]])
    return jax.vmap(run)(losses, jnp.array([CONVERGED, CONVERGED, DIVERGED]))


def test_a_run_says_how_long_it_was_and_how_it_ended():
    assert repr(run()).splitlines() == [
        "Trajectory: 3 records, time 0 -> 0.2, step 0 -> 20",
        "  status       converged",
        "  alignment    2 numbers at each record",
        "  ends.far     True -> False",
        "  ends.lowest  -4 -> -0.5",
        "  loss         4 -> 0.5",
        "  net          DeepLinear at each record",
        "  network      DeepLinear, 9 numbers",
    ]


def test_steps_of_a_flow_are_those_of_its_integrator():
    words = "Trajectory: gradient flow, 3 records, time 0 -> 0.2 in 20 steps\n"
    assert repr(run(step=False)).startswith(words)


def test_a_batch_has_ranges_and_counts():
    head, status, _, far, _, loss, _, network = repr(batch()).splitlines()
    assert head == "Trajectory: batch of 3, 3 records, time 0 -> 0.2, step 0 -> 20"
    assert status == "  status       2 converged, 1 diverged"
    assert far == "  ends.far     True -> False..True"
    assert loss == "  loss         4..5 -> 1..2"
    assert network == "  network      DeepLinear, 9 numbers"


def test_what_was_lost_has_no_number():
    assert "  loss         4 -> nan\n" in repr(run((4.0, 5.0, np.nan), DIVERGED))


@pytest.mark.parametrize(
    "shaped",
    [
        lambda: jax.eval_shape(run),
        lambda: jax.tree.map(lambda leaf: None, run()),
        lambda: jax.tree.map(lambda leaf: leaf[..., :0], batch()),
        lambda: jax.tree.map(lambda leaf: 0, run()),
    ],
    ids=["abstract", "empty", "without members", "axes"],
)
def test_what_has_no_numbers_prints_its_shape(shaped):
    assert repr(shaped()).startswith("Trajectory(\n  time=")


def test_a_traced_run_prints_its_shape():
    words = []
    jax.make_jaxpr(lambda losses: words.append(repr(run(losses))))(jnp.ones(3))
    assert "'loss': f64[3]" in words[0]


def test_a_hessian_prints_its_size(problem, network):
    assert repr(jf.hessian(problem, network)) == "<symmetric operator on 55 weights>"
