"""Every dynamics and every observable on every family of networks: one table.

Alone, jitted, in a batch, with slopes, and in single precision. All observables of a family
share one program, for compiling is what takes the time.
"""

from pathlib import Path

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf
from jaxflow import dynamics

X = jr.normal(jr.key(0), (12, 4))
Y = jnp.sin(X @ jnp.ones((4, 1)))
CLASSES = jnp.arange(12) % 3
SENSED = jr.normal(jr.key(1), (12, 4, 4))


def error(x, y, network):
    return jnp.mean((jax.vmap(network)(x) - y) ** 2)


def dense(widths, key):
    return jf.init.gaussian(widths, scale=0.5, key=key).weights


def convolution(key):
    make = jf.init.convolutional
    return make((1, 2, 2), (2,), 3, 3, scale=0.5, activation=jnp.tanh, key=key)


FAMILIES = {
    "linear": (
        lambda: jf.Regression.from_data(X, Y),
        lambda key: jf.DeepLinear(dense((4, 4, 1), key)),
    ),
    "mlp": (
        lambda: jf.MeanSquaredError(X, Y),
        lambda key: jf.MLP(dense((4, 4, 1), key), jnp.tanh),
    ),
    "residual": (
        lambda: jf.MeanSquaredError(X, Y, readout=jnp.ones((1, 4))),
        lambda key: jf.networks.ResidualMLP(dense((4, 4, 4), key), jax.nn.gelu),
    ),
    "convolutional": (lambda: jf.CrossEntropy(X, CLASSES), convolution),
    "diagonal": (
        lambda: jf.Regression.from_data(X, Y),
        lambda key: jf.networks.DiagonalLinear(jr.normal(key, (2, 4))),
    ),
    "symmetric": (
        lambda: jf.Regression.denoising(X, noise=0.1),
        lambda key: jf.networks.SymmetricLinear(0.5 * jr.normal(key, (4, 2))),
    ),
    "sensing": (
        lambda: jf.losses.MatrixSensing(SENSED, Y[:, 0]),
        lambda key: jf.DeepLinear(dense((4, 2, 4), key)),
    ),
    "committee": (
        lambda: jf.committee.Classification(X, jnp.sign(Y[:, 0])),
        lambda key: jf.committee.Committee(
            jr.normal(key, (2, 4)), tree=False, unit=jnp.tanh
        ),
    ),
    "equinox": (
        lambda: eqx.Partial(error, X, Y),
        lambda key: eqx.nn.MLP(4, 1, 4, 1, activation=jnp.tanh, key=key),
    ),
}
DENSE = ("linear", "mlp", "residual", "sensing")
WITH_SAMPLES = ("mlp", "residual", "convolutional")
KNOWN_OUTPUTS = tuple(name for name in FAMILIES if name != "equinox")

ANY = {
    "loss_value": jf.loss_value,
    "excess_loss": jf.observables.excess_loss,
    "gradient_norm": jf.observables.gradient_norm,
    "sharpness": jf.sharpness,
    "spectrum": lambda loss, n: jf.spectrum(loss, n, largest=2).values,
    "spectral_density": lambda loss, n: jf.observables.spectral_density(loss, n).trace,
    "hessian": lambda loss, n: jf.hessian(loss, n).as_matrix(),
    "oscillation_variance": lambda loss, n: jf.observables.oscillation_variance(
        loss, n, step_size=0.1
    ),
    "step_cosine": lambda loss, n: jf.observables.step_cosine(loss, n, step_size=0.1),
    "time_averaged": jf.observables.time_averaged(jf.loss_value, step_size=0.1),
    "sharpening_rate": jf.observables.sharpening_rate,
    "predicted_oscillation_variance": jf.observables.predicted_oscillation_variance,
    "local_energy": lambda loss, n: jf.committee.local_energy(loss, n, radius=0.1),
}
LAYERS = {
    "singular_values": jf.observables.singular_values,
    "alignment": jf.alignment,
    "random_alignment": jf.observables.random_alignment,
    "imbalance": jf.imbalance,
    "stable_rank": jf.observables.stable_rank,
    "rank_one_gap": jf.observables.rank_one_gap,
    "gains": lambda loss, n: jf.observables.gains(
        loss, n, signal=jnp.ones(4, leaf(n).dtype)
    ),
}
OUTPUTS = {"neural_tangent_kernel": jf.observables.neural_tangent_kernel}
SAMPLES = {"kernel_target_alignment": jf.observables.kernel_target_alignment}
# Of linear networks with one output or as many as inputs, which their own tests cover; of
# classifications; numbers of an optimizer; labels for the results of others.
PLACES = ("jaxflow.observables.", "jaxflow.committee.flatness")
ELSEWHERE = {
    *("distance", "linear_gauss_newton_spectrum", "path_coupling", "determinant"),
    *("stability_threshold", "preconditioner"),
    *("Spectrum", "SpectralDensity"),
    # Of classifications.
    *("error_rate", "zero_training_error", "local_entropy", "LocalEntropy"),
}
# Their slopes would be those of a slope of an eigenvalue, which is refused; draws that are
# counted have none, nor has what depends on shapes alone.
WITHOUT_SLOPE = {
    *(
        "sharpening_rate",
        "predicted_oscillation_variance",
        "spectral_density",
        "local_energy",
    ),
    "random_alignment",
}


def leaf(network):
    return jax.tree.leaves(eqx.filter(network, eqx.is_array))[0]


def cast(tree, dtype):
    move = lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf
    return jax.tree.map(move, tree)


def measures(family):
    chosen = dict(ANY)
    if family in (*DENSE, "equinox"):
        chosen |= LAYERS
    if family == "equinox":
        del chosen["gains"]
    if family in KNOWN_OUTPUTS:
        chosen |= OUTPUTS
    if family in WITH_SAMPLES:
        chosen |= SAMPLES
    return chosen


def observe(family, names=None):
    chosen = measures(family)
    names = tuple(chosen) if names is None else names

    @eqx.filter_jit
    def see(loss, network):
        return {name: chosen[name](loss, network) for name in names}

    return see


def moved(network, direction, size):
    """The network, a little further along a direction."""
    arrays, rest = eqx.partition(network, eqx.is_inexact_array)
    arrays = jax.tree.map(lambda w, v: w + size * v, arrays, direction)
    return eqx.combine(arrays, rest)


def slope_of(function, network):
    """The slope along a direction, by rules and by differences."""
    arrays = eqx.filter(network, eqx.is_inexact_array)
    shape = lambda w: jnp.cos(jnp.arange(w.size)).reshape(w.shape)
    direction = jax.tree.map(shape, arrays)
    along = lambda size: function(moved(network, direction, size))
    rule = jax.jvp(along, (jnp.zeros(()),), (jnp.ones(()),))[1]
    there, back = along(jnp.asarray(1e-5)), along(jnp.asarray(-1e-5))
    return rule, jax.tree.map(lambda a, b: (a - b) / 2e-5, there, back)


def gap(seen, expected, name):
    """The largest difference, relative to the largest value; absent values agree first."""
    seen, expected = np.asarray(seen, float), np.asarray(expected, float)
    np.testing.assert_array_equal(np.isnan(seen), np.isnan(expected), err_msg=name)
    there = ~np.isnan(expected)
    differences = np.abs(seen - expected)[there]
    return np.max(differences, initial=0) / (
        1e-3 + np.max(np.abs(expected[there]), initial=0)
    )


def test_the_table_is_complete():
    measured = {**vars(jf.observables), **vars(jf.committee.flatness)}
    public = {
        name
        for name, thing in measured.items()
        if getattr(thing, "__module__", "").startswith(PLACES) and name[0] != "_"
    }
    assert len(public) > 30
    assert public == {
        *ANY,
        *LAYERS,
        *OUTPUTS,
        *SAMPLES,
        *ELSEWHERE,
        "loss_value",
        "weights",
    }


def test_the_table_of_dynamics_is_complete():
    """What is not in it is not for any family; there is a file that says what it does."""
    public = {n for n, v in vars(dynamics).items() if callable(v)}
    types = {"Edge", "Observable", "Status", "Trajectory"}
    rules = {name for name in RULES if hasattr(dynamics, name)}
    assert public - types == {*MOVES, *rules, *DYNAMICS_ELSEWHERE}
    for name, file in DYNAMICS_ELSEWHERE.items():
        assert f"jf.dynamics.{name}" in (Path(__file__).parent / file).read_text(), name


def some(names):
    """All families, of which others than these only when asked for: they compile long."""
    exhaustive = pytest.mark.exhaustive
    return [f if f in names else pytest.param(f, marks=exhaustive) for f in FAMILIES]


@pytest.mark.parametrize("family", some(("linear", "equinox")))
class TestObservables:
    def test_batches_and_precisions(self, family):
        make, draw = FAMILIES[family]
        loss, networks = make(), [draw(key) for key in jr.split(jr.key(2), 2)]
        see = observe(family)
        alone = [see(loss, network) for network in networks]
        stack = lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0]
        stacked = jax.tree.map(stack, *networks)
        together = eqx.filter_vmap(lambda network: see(loss, network))(stacked)
        single = see(cast(loss, jnp.float32), cast(networks[0], jnp.float32))
        for name, values in together.items():
            for k in range(2):
                np.testing.assert_allclose(
                    values[k], alone[k][name], rtol=1e-6, atol=1e-8, err_msg=name
                )
            assert single[name].dtype == jnp.float32, name
            # Other draws, with other bits.
            if name != "local_energy":
                assert gap(single[name], alone[0][name], name) < 2e-2, name

    def test_slopes(self, family):
        make, draw = FAMILIES[family]
        loss, network = make(), draw(jr.key(2))
        names = tuple(n for n in measures(family) if n not in WITHOUT_SLOPE)
        see = observe(family, names)
        rule, numeric = slope_of(lambda network: see(loss, network), network)
        for name in names:
            # Singular values that a smaller layer lacks are absent, and do not move.
            wanted = jax.tree.map(jnp.nan_to_num, numeric[name])
            assert name in LAYERS or np.all(wanted == numeric[name]), name
            assert gap(rule[name], wanted, name) < 1e-3, name


def descend(loss, network):
    run = jf.gradient_descent(loss, network, 8, step_size=0.02, every=4)
    return run.observed["loss"]


def flow(loss, network):
    run = jf.gradient_flow(loss, network, (0.0, 0.1, 0.2), solver=dfx.Tsit5())
    return run.observed["loss"]


def central(loss, network):
    run = jf.central_flow(loss, network, 8, step_size=0.02, every=4, rtol=1.0)
    return run.edge.average["loss"]


MOVES = {"gradient_descent": descend, "gradient_flow": flow, "central_flow": central}
# What they are given: a solver, optimizers, observables.
RULES = {
    *("ExponentialRosenbrock", "entropy_sgd", "fixed_row_norms"),
    *("loss_value", "weights", "with_state"),
}
# Those of a family alone, minima of linear networks and committees of signs; and a flow to
# its end, which takes too long for a table.
DYNAMICS_ELSEWHERE = {"at_flow_limit": "observables/test_edge.py"}

SHORT = {descend: tuple(FAMILIES), flow: ("linear", "equinox"), central: ("equinox",)}
RUNS = [
    (run, family)
    if family in SHORT[run]
    else pytest.param(run, family, marks=pytest.mark.exhaustive)
    for run in SHORT
    for family in FAMILIES
]


@pytest.mark.parametrize(("run", "family"), RUNS)
def test_dynamics(run, family):
    make, draw = FAMILIES[family]
    loss, networks = make(), [draw(key) for key in jr.split(jr.key(2), 2)]
    stack = lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0]
    stacked = jax.tree.map(stack, *networks)
    go = eqx.filter_jit(run)
    alone = [go(loss, network) for network in networks]
    assert np.all(np.diff(alone[0]) < 0)
    together = eqx.filter_vmap(lambda network: go(loss, network))(stacked)
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-7)
    single = go(cast(loss, jnp.float32), cast(networks[0], jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, alone[0], rtol=2e-3)
    along = lambda size: go(loss, scaled(networks[0], size))[-1]
    slope = jax.grad(along)(jnp.ones(()))
    numeric = (along(jnp.asarray(1 + 1e-5)) - along(jnp.asarray(1 - 1e-5))) / 2e-5
    np.testing.assert_allclose(slope, numeric, rtol=1e-4, atol=1e-8)


def scaled(network, size):
    scale = lambda leaf: size * leaf if eqx.is_inexact_array(leaf) else leaf
    return jax.tree.map(scale, network)
