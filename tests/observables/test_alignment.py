"""Singular structure: closed forms, degenerate values, and random baselines."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf

RAGGED = (4, 6, 3, 2)


@pytest.fixture
def ragged():
    return jf.init.gaussian(RAGGED, scale=0.5, key=jr.key(0))


@pytest.fixture
def rank_one():
    return jf.init.balanced_rank_one(RAGGED, scale=0.8, key=jr.key(1))


def test_balanced_rank_one_layers_are_aligned_and_flat_in_rank(problem, rank_one):
    np.testing.assert_allclose(jf.alignment(problem, rank_one), 1, rtol=1e-12)
    np.testing.assert_allclose(jf.imbalance(problem, rank_one), 0, atol=1e-14)
    np.testing.assert_allclose(jf.observables.stable_rank(problem, rank_one), 1, rtol=1e-12)
    np.testing.assert_allclose(
        jf.observables.rank_one_gap(problem, rank_one), 0, atol=1e-14
    )
    np.testing.assert_allclose(jf.observables.gains(problem, rank_one), 0.8, rtol=1e-12)


def test_alignment_agrees_with_numpy(problem, ragged):
    factors = [np.linalg.svd(np.asarray(w)) for w in ragged.weights]
    wanted = [abs(u[:, 0] @ v[0]) for (u, _, _), (_, _, v) in zip(factors, factors[1:])]  # noqa: B905, RUF007
    np.testing.assert_allclose(jf.alignment(problem, ragged), wanted, rtol=1e-10)


def test_spaces_of_repeated_singular_values_are_aligned_where_vectors_are_not(problem):
    """Two orthogonal layers share every space, whatever vectors the decomposition picks."""
    turn = jf.init.orthogonal((4, 4, 4), key=jr.key(2))
    np.testing.assert_allclose(jf.alignment(problem, turn, rank=4), 1, rtol=1e-12)
    assert jf.alignment(problem, turn)[0] < 0.999


def test_random_layers_have_the_random_baseline(problem):
    keys = jr.split(jr.key(0), 400)
    networks = jax.vmap(lambda k: jf.init.gaussian((8, 8, 8), scale=1.0, key=k))(keys)
    squares = jax.vmap(lambda n: jf.alignment(problem, n, rank=2)[0] ** 2)(networks)
    error = jnp.std(squares) / 20
    assert abs(jnp.mean(squares) - 2 / 8) < 4 * error


def test_singular_values_are_filled_up(problem, ragged):
    values = jf.observables.singular_values(problem, ragged)
    assert values.shape == (3, 4)
    assert jnp.isnan(values).sum(axis=1).tolist() == [0, 1, 2]
    wanted = np.linalg.svd(np.asarray(ragged.weights[2]), compute_uv=False)
    np.testing.assert_allclose(values[2, :2], wanted, rtol=1e-12)


def test_imbalance_and_gap_agree_with_their_definitions(problem, ragged):
    a, b, c = (np.asarray(w) for w in ragged.weights)
    wanted = [np.linalg.norm(b.T @ b - a @ a.T), np.linalg.norm(c.T @ c - b @ b.T)]
    np.testing.assert_allclose(jf.imbalance(problem, ragged), wanted, rtol=1e-12)
    gaps = [np.linalg.norm(w) ** 2 - np.linalg.norm(w, 2) ** 2 for w in (a, b, c)]
    np.testing.assert_allclose(
        jf.observables.rank_one_gap(problem, ragged), gaps, rtol=1e-10
    )
    ranks = [(np.linalg.norm(w) / np.linalg.norm(w, 2)) ** 2 for w in (a, b, c)]
    np.testing.assert_allclose(
        jf.observables.stable_rank(problem, ragged), ranks, rtol=1e-10
    )


def test_gains_multiply_to_the_gain_of_the_network(problem, ragged):
    signal = jnp.array([1.0, -2.0, 0.5, 0.0])
    total = jnp.linalg.norm(ragged(signal)) / jnp.linalg.norm(signal)
    gains = jf.observables.gains(problem, ragged, signal=signal)
    np.testing.assert_allclose(jnp.prod(gains), total, rtol=1e-12)
    top = jnp.linalg.norm(ragged.product, 2)
    np.testing.assert_allclose(
        jnp.prod(jf.observables.gains(problem, ragged)), top, rtol=1e-12
    )


def test_the_origin_has_no_structure_and_no_nan(problem, ragged):
    zero = jax.tree.map(jnp.zeros_like, ragged)
    assert jf.observables.stable_rank(problem, zero).tolist() == [0, 0, 0]
    assert jf.observables.gains(problem, zero).tolist() == [0, 0, 0]
    assert jf.imbalance(problem, zero).tolist() == [0, 0]
    assert jnp.isfinite(jf.alignment(problem, zero)).all()


def test_depth_one_has_no_pairs(problem):
    single = jf.DeepLinear((jnp.ones((1, 5)),))
    assert (
        jf.alignment(problem, single).shape == jf.imbalance(problem, single).shape == (0,)
    )


def test_rank_is_checked(problem, ragged):
    with pytest.raises(
        ValueError, match=r"`alignment\(rank=...\)` must be between 1 and 2, but is 3"
    ):
        jf.alignment(problem, ragged, rank=3)


def test_ties_of_singular_values_count_within_the_tolerance(problem):
    """Three of four singular values are one, and the spaces of three agree."""
    left, right = (jnp.linalg.qr(jr.normal(jr.key(k), (4, 4)))[0] for k in (3, 4))
    between = jnp.diag(jnp.array([1.0, 1.0, 1.0, 0.2]))
    turn = jnp.linalg.qr(jr.normal(jr.key(5), (3, 3)))[0]
    turn = jax.scipy.linalg.block_diag(turn, 1.0)
    # The three of the first layer are turned among themselves before the second.
    network = jf.DeepLinear((left @ between @ right, turn @ between @ left.T))
    assert jf.alignment(problem, network)[0] < 0.999
    both = {"tolerance": 1e-9}
    np.testing.assert_allclose(jf.alignment(problem, network, **both), 1, rtol=1e-12)
    np.testing.assert_allclose(
        jf.observables.random_alignment(problem, network, **both), (3 / 4) ** 0.5
    )


def test_ties_are_with_the_last_singular_value_that_counts(problem):
    """The second and third are tied, far below the first."""
    values = jnp.diag(jnp.array([3.0, 1.0, 1.0, 0.2]))
    turn = jax.scipy.linalg.block_diag(1.0, jnp.array([[0.0, 1], [-1, 0]]), 1.0)
    mix = jnp.linalg.qr(jr.normal(jr.key(6), (4, 4)))[0]
    network = jf.DeepLinear((mix @ values, values @ turn @ mix.T))
    options = {"rank": 2, "tolerance": 1e-9}
    np.testing.assert_allclose(jf.alignment(problem, network, **options), 1, rtol=1e-12)
    np.testing.assert_allclose(
        jf.observables.random_alignment(problem, network, **options),
        (3 / 4) ** 0.5,
        rtol=1e-12,
    )


def test_the_chance_of_two_sizes_is_that_of_random_spaces(problem):
    """The first layer has two top values, the second one, between six neurons."""
    first, then = jnp.diag(jnp.array([1.0, 1, 0.5])), jnp.array([[1.0, 0, 0]])
    flat = jnp.eye(6, 3)

    def draw(key):
        turn = jnp.linalg.qr(jr.normal(key, (6, 6)))[0]
        return jf.DeepLinear((turn @ flat @ first, then @ flat.T))

    networks = jax.vmap(draw)(jr.split(jr.key(0), 400))
    options = {"tolerance": 1e-9}
    squares = jax.vmap(lambda n: jf.alignment(problem, n, **options)[0] ** 2)(networks)
    one = jax.tree.map(lambda w: w[0], networks)
    wanted = float(jf.observables.random_alignment(problem, one, **options)[0]) ** 2
    assert wanted == pytest.approx(2 / 6)
    assert abs(jnp.mean(squares) - wanted) < 4 * jnp.std(squares) / 20


def test_a_path_is_coupled_where_its_states_are_singular_vectors(problem, rank_one, ragged):
    np.testing.assert_allclose(
        jf.observables.path_coupling(problem, rank_one), 1, rtol=1e-12
    )
    start = np.linalg.svd(np.asarray(ragged.product))[2][0]
    wanted = []
    for w in map(np.asarray, ragged.weights):
        then = w @ start
        back = w.T @ then
        wanted.append(back @ start / np.linalg.norm(back) / np.linalg.norm(start))
        start = then
    np.testing.assert_allclose(
        jf.observables.path_coupling(problem, ragged), wanted, rtol=1e-10
    )
    assert min(wanted) < 0.95


def test_a_path_need_not_be_of_top_singular_vectors(problem):
    layers = ([1.0, 2**0.5], [1.0, 0.0], [1.0, 1.5**0.5])
    network = jf.DeepLinear(tuple(jnp.diag(jnp.array(layer)) for layer in layers))
    np.testing.assert_allclose(
        jf.observables.path_coupling(problem, network), 1, rtol=1e-12
    )
    np.testing.assert_allclose(jf.alignment(problem, network), 0, atol=1e-12)


def test_structure_at_an_input_is_that_of_the_layers_jacobians(problem):
    """Where ReLU neurons are on, they are linear; the gains are those of small signals."""
    weights = jf.init.gaussian((3, 5, 4, 2), scale=0.8, key=jr.key(1)).weights
    network = jf.MLP(weights, jnp.tanh)
    x, step = jnp.array([0.3, -0.2, 0.5]), jnp.array([1.0, 2.0, -1.0])
    at_x = network.linearized(x)
    np.testing.assert_allclose(at_x.product, jax.jacfwd(network)(x), rtol=1e-12)
    near = (network(x + 1e-6 * step) - network(x - 1e-6 * step)) / 2e-6
    total = jnp.linalg.norm(near) / jnp.linalg.norm(step)
    gains = jf.observables.gains(problem, at_x, signal=step)
    np.testing.assert_allclose(jnp.prod(gains), total, rtol=1e-8)
    whole = jf.observables.gains(problem, network, signal=x)
    np.testing.assert_allclose(
        jnp.prod(whole), jnp.linalg.norm(network(x)) / jnp.linalg.norm(x), rtol=1e-12
    )
    layers = jf.DeepLinear(weights)
    np.testing.assert_array_equal(
        jf.alignment(problem, network), jf.alignment(problem, layers)
    )


def test_layers_of_the_users_own_module_are_its_matrices(problem):
    module = eqx.nn.MLP(3, 2, 4, 2, key=jr.key(2))
    layers = jf.DeepLinear(tuple(layer.weight for layer in module.layers))
    for measure in (
        jf.alignment,
        jf.observables.random_alignment,
        jf.imbalance,
        jf.observables.stable_rank,
    ):
        np.testing.assert_array_equal(measure(problem, module), measure(problem, layers))
    run = jf.gradient_descent(
        lambda module: jnp.sum(module(jnp.ones(3)) ** 2),
        module,
        2,
        step_size=0.1,
        observe={"alignment": jf.alignment},
    )
    last = jf.alignment(problem, run.network)
    np.testing.assert_allclose(run.observed["alignment"][-1], last, rtol=1e-12)


@pytest.mark.parametrize(
    "module",
    [
        {"one": jnp.ones((3, 2)), "two": jnp.ones((2, 4))},  # Does not fit.
        (jnp.ones((2, 3, 3)),),  # No matrix.
        [jnp.ones(3)],
    ],
)
def test_what_is_no_chain_of_matrices_is_refused(problem, module):
    with pytest.raises(ValueError, match="chain of layers with a weight matrix"):
        jf.alignment(problem, module)
    with pytest.raises(ValueError, match="known of layered networks"):
        jf.observables.gains(problem, module, signal=jnp.ones(3))


def test_signals_that_do_not_fit_are_refused(problem, ragged):
    with pytest.raises(ValueError, match=r"4 inputs, but has shape \(3,\)"):
        jf.observables.path_coupling(problem, ragged, signal=jnp.ones(3))
    network = jf.MLP(ragged.weights, jnp.tanh)
    with pytest.raises(ValueError, match="needs a `signal`"):
        jf.observables.gains(problem, network)
