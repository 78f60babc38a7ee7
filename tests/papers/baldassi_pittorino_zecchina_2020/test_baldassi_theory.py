"""Baldassi, Pittorino & Zecchina (2020): replica theory against independent numerics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import expit, log_ndtr, logsumexp, ndtr, ndtri
from scipy.stats import binom

from jaxflow.papers import baldassi_pittorino_zecchina_2020 as theory

PERCEPTRON, SIGN, RELU = theory.Perceptron(), theory.SignUnits(), theory.ReLUUnits()
KERNELS = {"perc": PERCEPTRON, "sign": SIGN, "relu": RELU}


def close(found, wanted, tolerance):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


def normal(count=801, reach=8.5):
    """Points and weights of a standard normal variable, on a uniform grid."""
    nodes = np.linspace(-reach, reach, count)
    weights = np.exp(-(nodes**2) / 2)
    return nodes, weights / weights.sum()


def test_kernels_are_covariances():
    x = jnp.linspace(-0.9, 0.9, 7)
    arcsine = theory.SmoothUnits(jax.scipy.special.erf)
    close(jax.vmap(arcsine)(x), np.arcsin(2 * x / 3) / np.arcsin(2 / 3), 1e-14)
    slope = (2 / 3) / np.sqrt(1 - 4 / 9) / np.arcsin(2 / 3)
    close(arcsine.slope, slope, 1e-12)
    close(arcsine.scale, np.sqrt(2 / np.pi * np.arcsin(2 / 3)), 1e-14)
    linear = theory.SmoothUnits(lambda u: 3 * u + 1)
    close(jax.vmap(linear)(x), x, 1e-14)
    close(linear.scale, 3, 1e-13)
    nodes, weights = normal(4001)
    u, v, w = nodes[:, None], nodes[None], np.outer(weights, weights)
    for overlap in (-0.5, 0.3):
        both = np.maximum(u, 0) * np.maximum(overlap * u + np.sqrt(1 - overlap**2) * v, 0)
        covariance = np.sum(w * both) - 1 / (2 * np.pi)
        close(RELU.scale**2 * RELU(overlap), covariance, 1e-6)
    for kernel in (PERCEPTRON, SIGN, RELU, arcsine):
        close([kernel(0.0), kernel(1.0)], [0, 1], 1e-14)
    for kernel in (PERCEPTRON, RELU):
        close(jax.grad(kernel)(1 - 1e-9), kernel.slope, 1e-4)


def test_units_must_vary():
    with pytest.raises(ValueError, match="must vary"):
        theory.SmoothUnits(jnp.ones_like)


def test_units_must_be_smooth_enough_for_their_polynomials():
    for activation in (jax.nn.relu, lambda u: jnp.tanh(3 * u)):
        with pytest.raises(ValueError, match="smooth enough for 100 polynomials"):
            theory.SmoothUnits(activation)
    steep = theory.SmoothUnits(lambda u: jnp.tanh(3 * u), order=400)
    nodes, weights = normal(8001, 12)
    variance = weights @ np.tanh(3 * nodes) ** 2
    close(steep.scale**2, variance, 1e-9)
    close(steep.slope, weights @ (3 / np.cosh(3 * nodes) ** 2) ** 2 / variance, 2e-6)


def test_capacities_are_the_known_ones(replica_reference):
    known = replica_reference["capacities"]
    for name, value in known["spherical_perceptron"].items():
        found = theory.capacity(PERCEPTRON, margin=float(name.split("=")[1]))
        np.testing.assert_allclose(found, value, rtol=2e-6)
    close(theory.capacity(PERCEPTRON), 2, 1e-14)
    close(theory.capacity(RELU), 2 * np.pi / (np.pi - 1), 1e-14)
    assert theory.capacity(SIGN) == np.inf
    for kernel, name in (
        (PERCEPTRON, "perceptron_RS_zero_entropy"),
        (SIGN, "tree_committee_Kinf_sign"),
        (RELU, "tree_committee_Kinf_relu"),
    ):
        close(theory.capacity(kernel, weights="binary"), known[f"binary_{name}"], 6e-7)


def test_broken_symmetry_lowers_the_capacity(replica_reference):
    known = replica_reference["capacities"]["spherical_tree_committee_Kinf_relu_1RSB"]
    found = theory.capacity_one_step(RELU)
    close(found.load, known["alpha_c"], 6e-6)
    close(found.overlap, known["q0"], 6e-7)
    close(found.break_point, known["mtilde"], 6e-5)
    assert found.load < theory.capacity(RELU)
    # One cluster is all that there is.
    assert np.isnan(theory.capacity_one_step(PERCEPTRON).load)


def test_finite_committees_need_the_least_displacement(replica_reference):
    known = replica_reference["capacities"]["spherical_tree_committee_sign_RS_finiteK"]
    for units in (1, 3, 5, 7, 9, 15):
        # That reference is a simulation, with errors of a few parts in a thousand.
        np.testing.assert_allclose(
            theory.committee_capacity(units), known[str(units)], rtol=3e-3
        )
    close(theory.committee_capacity(1), 2, 1e-12)
    for units in (101, 10_001):
        nodes = np.linspace(0, 9, 2_000_001)
        few = binom.cdf((units - 1) // 2, units - 1, ndtr(nodes))
        density = np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi)
        total = units * np.sum(density * nodes**2 * few) * nodes[1]
        np.testing.assert_allclose(theory.committee_capacity(units), 1 / total, rtol=1e-9)
    fields = np.random.default_rng(0).standard_normal((400_000, 5))
    least = np.sort(np.where(fields < 0, fields**2, np.inf), 1)
    needed = np.arange(5) < 3 - np.sum(fields > 0, 1, keepdims=True)
    costs = np.sum(np.where(needed, least, 0), 1)
    error = 4 * costs.std() / np.sqrt(len(costs))
    close(1 / theory.committee_capacity(5), costs.mean(), error)


@pytest.mark.parametrize("name", ["perc", "relu_Kinf", "sign_Kinf"])
def test_typical_spherical_solutions(replica_reference, name):
    table = replica_reference["rs_spherical_kappa0"][name]
    loads = jnp.array([float(load) for load in table])
    found = jax.vmap(lambda load: theory.gardner(KERNELS[name[:4]], load))(loads)
    close(found.overlap, [row["q"] for row in table.values()], 3e-6)
    close(found.entropy, [row["phi"] for row in table.values()], 6e-6)
    assert np.all(np.isnan(found.conjugate))


def test_linear_units_are_a_perceptron():
    linear = theory.SmoothUnits(lambda u: 3 * u)
    one, other = (theory.gardner(kernel, 1.2) for kernel in (PERCEPTRON, linear))
    close([one.overlap, one.entropy], [other.overlap, other.entropy], 1e-10)
    close(theory.capacity(linear), 2, 1e-12)


def test_typical_binary_solutions(replica_reference):
    table = replica_reference["rs_binary_perceptron"]
    loads = jnp.array([float(load) for load in table])
    found = jax.vmap(lambda a: theory.gardner(PERCEPTRON, a, weights="binary"))(loads)
    close(found.overlap, [row["q"] for row in table.values()], 1e-6)
    close(found.conjugate, [row["qhat"] for row in table.values()], 6e-6)
    close(found.entropy, [row["S"] for row in table.values()], 1e-6)


def test_margins_move_the_end_of_solutions():
    limit = theory.capacity(PERCEPTRON, margin=0.5)
    inside = theory.gardner(PERCEPTRON, 0.99 * limit, margin=0.5)
    outside = theory.gardner(PERCEPTRON, 1.01 * limit, margin=0.5)
    assert 0.98 < inside.overlap < 1
    assert np.isnan(outside.overlap)
    assert np.isnan(outside.entropy)


REFERENCES = [
    f"{kernel}_ce_gamma{strength}"
    for kernel in ("perc", "relu")
    for strength in ("0.5", "1.0", "2.0", "5.0", "50.0")
]


@pytest.mark.parametrize(
    "name", [*REFERENCES, "perc_typical", "sign_typical", "relu_typical"]
)
def test_spherical_entropies_around_references(replica_reference, name):
    table = replica_reference["fp_spherical_alpha1"][name]
    rows = np.array(table["curve"])
    strength = float(name.split("gamma")[1]) if "gamma" in name else None
    kernel = KERNELS[name[:4]]
    found = theory.franz_parisi(kernel, 1.0, rows[:, 0], strength=strength)
    assert np.all(found.converged)
    assert np.all(found.residual < theory.TOLERANCE)
    # At the largest strength the reference has too few points for fields that stop.
    coarse = strength == 50
    close(found.normalized, rows[:, 1], 5e-4 if coarse else 3e-5)
    usual = (rows[:, 0] > 1e-3) & (not coarse)
    close(found.normalized[usual], rows[usual, 1], 4e-6)
    close(found.overlap[usual], rows[usual, 2], 4e-6)
    close(found.cross[usual], rows[usual, 3], 2e-5)
    close(
        found.entropy - found.normalized, np.log1p(-((1 - 2 * rows[:, 0]) ** 2)) / 2, 1e-12
    )
    if strength is not None:
        stiffness = theory.cross_entropy_minimizer(kernel, 1.0, strength).log_stiffness
        np.testing.assert_allclose(
            np.exp(stiffness), table["chi"], rtol=1e-2 if coarse else 3e-5
        )


def energy_around_typical(q, S, p, t):
    """In three integrals, as it is written, for a perceptron."""
    z0, w0 = normal(161)
    y, wy = (x[:48] for x in np.polynomial.hermite_e.hermegauss(48))
    u, wu = np.polynomial.legendre.leggauss(300)
    u, wu = (1 + u) / 2, wu / 2
    bound = np.sqrt(q / (1 - q)) * z0
    own = -np.sqrt(1 - q) * ndtri(u[None] * ndtr(bound)[:, None])
    mean = t / np.sqrt(q) * z0[:, None] + (S - t) / (1 - q) * own
    spread = np.sqrt(p - t**2 / q - (S - t) ** 2 / (1 - q))
    values = log_ndtr((mean[..., None] + spread * y) / np.sqrt(1 - p))
    return np.einsum("a,b,c,abc", w0, wu, wy / wy.sum(), values)


def test_order_parameters_are_stationary():
    q = float(theory.gardner(PERCEPTRON, 1.0).overlap)
    found = theory.franz_parisi(PERCEPTRON, 1.0, 0.05)
    S, p, t = 0.9, float(found.overlap), float(found.cross)

    def entropy(p, t):
        s = (S**2 - t**2 - q * (S - t) ** 2 / (1 - q)) / (1 - q)
        volume = (np.log(1 - p) + (p - s) / (1 - p)) / 2
        return volume + energy_around_typical(q, S, p, t)

    close(found.entropy, entropy(p, t), 3e-6)
    step = 1e-4
    scale = abs(entropy(p + 50 * step, t) - entropy(p, t)) / (50 * step)
    assert abs(entropy(p + step, t) - entropy(p - step, t)) / (2 * step) < 0.02 * scale
    assert abs(entropy(p, t + step) - entropy(p, t - step)) / (2 * step) < 0.02 * scale


def test_solutions_at_the_typical_distance_are_typical():
    for weights in ("spherical", "binary"):
        load = 1.0 if weights == "spherical" else 0.4
        typical = theory.gardner(PERCEPTRON, load, weights=weights)
        distance = (1 - typical.overlap) / 2
        found = theory.franz_parisi(PERCEPTRON, load, distance, weights=weights)
        close(found.entropy, typical.entropy, 1e-7)
        close([found.overlap, found.cross], [typical.overlap] * 2, 1e-5)


def test_without_patterns_only_the_volume_is_left():
    distances = np.array([0.02, 0.2])
    for strength in (None, 2.0):
        found = theory.franz_parisi(PERCEPTRON, 1e-3, distances, strength=strength)
        close(found.entropy, np.log(1 - (1 - 2 * distances) ** 2) / 2, 1e-3)
        assert np.all(found.normalized <= 1e-12)
    replicas = theory.replica_entropy(PERCEPTRON, 1e-3, distances, 5)
    close(replicas.normalized, 0, 1e-3)
    q1, whole = 1 - 2 * distances, 2 * distances + 5 * (1 - 2 * distances)
    free = (np.log(1 - q1) + np.log(whole / (1 - q1)) / 5) / 2
    close(replicas.entropy - replicas.normalized, free, 1e-13)


def test_where_there_is_nothing_there_is_nan():
    beyond = theory.franz_parisi(PERCEPTRON, 2.1, np.array([[0.1], [0.01]]))
    assert beyond.entropy.shape == (2, 1)
    assert not np.any(beyond.converged)
    assert np.all(np.isnan(beyond.normalized) & np.isnan(beyond.overlap))
    replicas = theory.replica_entropy(PERCEPTRON, 2.1, np.array([0.1, 0.01]), 5)
    assert not np.any(replicas.converged)
    assert np.all(np.isnan(replicas.entropy))
    assert np.isnan(theory.widest_entropy(PERCEPTRON, 2.1, 0.1))
    # Further apart than typical solutions are.
    assert not theory.replica_entropy(PERCEPTRON, 1.0, 0.3, 5).converged


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.exhaustive] * (name != "sign"))
        for name in KERNELS
    ],
)
def test_no_reference_is_better_than_the_bound(replica_reference, name):
    table = replica_reference["fp_spherical_alpha1"]
    rows = np.array(table[f"{name}_yinf"]["curve"])[:5]
    bound = theory.widest_entropy(KERNELS[name], 1.0, rows[:, 0])
    close(bound, rows[:, 1], 6e-7)
    others = [v["curve"] for k, v in table.items() if k[:4] == name and "yinf" not in k]
    for curve in others:
        assert np.all(np.array(curve)[:5, 1] < bound + 1e-6)
    for load in (0.3, 1.8):
        around = theory.franz_parisi(KERNELS[name], load, rows[:, 0]).normalized
        assert np.all(around < theory.widest_entropy(KERNELS[name], load, rows[:, 0]))


@pytest.mark.parametrize(
    "name",
    ["perc_2", "perc_20", "perc_100", "sign_5", "sign_20", "relu_2", "relu_5", "relu_100"],
)
def test_spherical_replicas(replica_reference, name):
    rows = np.array(replica_reference["y_replica_spherical_alpha1"][name]["curve"])
    kernel, replicas = name.split("_")
    found = theory.replica_entropy(KERNELS[kernel], 1.0, rows[:, 0], int(replicas))
    assert np.all(found.converged)
    close(found.normalized, rows[:, 1], 6e-7)
    close(found.overlap, rows[:, 2], 4e-6)


def test_close_replicas_are_resolved():
    """Where what a field costs changes within a hundredth of the spread of fields.

    The numbers are from 801 nodes in every direction, evenly spaced.
    """
    dense = [-0.04274206, -0.04039572, -0.03915740]
    found = theory.replica_entropy(KERNELS["relu"], 1.0, np.array([5e-4, 1e-4, 1e-5]), 20)
    assert np.all(found.converged)
    close(found.normalized, dense, 1e-8)


def test_what_more_nodes_change_has_not_converged(monkeypatch):
    """A residual of equations that are not resolved says nothing."""
    monkeypatch.setattr(theory.costs, "NODES", 12)
    jax.clear_caches()
    found = theory.replica_entropy(KERNELS["relu"], 1.0, np.array([1e-4]), 20)
    jax.clear_caches()
    assert not np.any(found.converged)
    assert np.all(found.residual > 1e-8)


def test_one_replica_is_a_typical_solution():
    typical = theory.gardner(PERCEPTRON, 1.0)
    # Where is the other one, if there is none, does not matter.
    found = theory.replica_entropy(PERCEPTRON, 1.0, np.array([0.1, 0.02]), 1)
    close(found.entropy, typical.entropy, 1e-9)
    close(found.overlap, typical.overlap, 1e-7)
    counted = theory.gardner(PERCEPTRON, 0.4, weights="binary")
    found = theory.replica_entropy(PERCEPTRON, 0.4, 0.1, 1, weights="binary")
    close(found.entropy, counted.entropy, 1e-9)


@pytest.mark.parametrize("load", ["0.4", "0.6", "0.75"])
def test_binary_replicas(replica_reference, load):
    table = replica_reference["binary_perceptron_y_replicas"][f"alpha{load}_y2.0"]
    rows = np.array(table["curve"])
    found = theory.replica_entropy(PERCEPTRON, float(load), rows[:, 0], 2, weights="binary")
    assert np.all(found.converged)
    close(found.entropy, rows[:, 1], 6e-7)
    close(found.entropy - found.normalized, rows[:, 2], 6e-7)
    close(found.overlap, rows[:, 3], 6e-7)


@pytest.mark.exhaustive
def test_many_binary_replicas(replica_reference):
    """At loads where the independent numbers are right: see `replica_reference`."""
    table = replica_reference["binary_perceptron_y_replicas"]
    for load, replicas, tolerance in ((0.4, 20, 8e-5), (0.75, 5, 6e-5)):
        rows = np.array(table[f"alpha{load}_y{replicas}.0"]["curve"])
        found = theory.replica_entropy(
            PERCEPTRON, load, rows[:, 0], replicas, weights="binary"
        )
        assert np.all(found.converged)
        close(found.entropy, rows[:, 1], tolerance)
        if replicas == 20:
            close(found.entropy - found.normalized, rows[:, 2], 6e-7)
            close(found.overlap, rows[:, 3], 1e-3)
            near = rows[:, 0] < 0.085
            close(found.entropy[near], rows[near, 1], 1e-6)


def test_many_binary_replicas_are_stationary():
    """In integrals as they are written, on dense grids."""
    load, y, q1 = 0.6, 20, 0.93
    found = theory.replica_entropy(PERCEPTRON, load, (1 - q1) / 2, y, weights="binary")
    z0, w0 = normal(161)
    z1 = np.linspace(-10, 60, 2801)
    flat = np.log(z1[1] - z1[0]) - z1**2 / 2 - np.log(2 * np.pi) / 2

    def joint(q0):
        fields = lambda z: np.sqrt(q0) * z + np.sqrt(q1 - q0) * z1
        state = lambda z: logsumexp(flat + y * log_ndtr(fields(z) / np.sqrt(1 - q1)))
        return load / y * sum(w * state(z) for z, w in zip(z0, w0, strict=True))

    def free(shared, group):
        fields = lambda z: np.sqrt(shared) * z + np.sqrt(group) * (z1 - 25)
        flat = np.log(z1[1] - z1[0]) - (z1 - 25) ** 2 / 2 - np.log(2 * np.pi) / 2
        state = lambda z: logsumexp(flat + y * np.logaddexp(fields(z), -fields(z)))
        return sum(w * state(z) for z, w in zip(z0, w0, strict=True)) / y

    q0 = float(found.overlap)
    shared = -2 / y * (joint(q0 + 1e-4) - joint(q0 - 1e-4)) / 2e-4

    def entropy(shared, group):
        overlaps = (shared + group) * (1 - q1 + y * q1) - y * shared * q0
        return free(shared, group) - overlaps / 2 + joint(q0)

    group = minimize(lambda a: entropy(shared, np.exp(a[0])), [-1.0], tol=1e-10).x[0]
    close(found.entropy, entropy(shared, np.exp(group)), 1e-6)
    slope = entropy(shared + 1e-3, np.exp(group)) - entropy(shared - 1e-3, np.exp(group))
    close(slope / 2e-3, 0, 1e-3)


@pytest.mark.exhaustive
def test_binary_minimizers_freeze(replica_reference):
    table = replica_reference["binary_perceptron_ce_zero_entropy"]
    names = list(table)
    given = jnp.array([[float(x) for x in name.split("_")] for name in names])
    solve = lambda strength, load: theory.cross_entropy_minimizer(
        PERCEPTRON, load, strength, weights="binary"
    )
    found = jax.vmap(solve)(*given.T)
    known = {key: np.array([table[name][key] for name in names]) for key in table[names[0]]}
    # The reference has few points where losses are steep, at strengths from three on.
    for strengths, tolerance in (((0.5, 1, 2), 4e-6), ((3,), 2e-5), ((5,), 3e-3)):
        some = np.isin(given[:, 0], strengths)
        close(np.exp(found.log_stiffness[some]) / known["beta"][some], 1, tolerance)
        close(found.overlap[some], known["q"][some], tolerance / 4)
        close(found.conjugate[some] / known["qhat"][some], 1, tolerance)
    energy = np.asarray(found.energy * given[:, 1])
    np.testing.assert_allclose(energy, known["energy"], rtol=5e-6, atol=2e-7)
    # Errors are from a tenth to next to none: 19 are not so small that they vanish.
    there = known["train_err"] > 1e-20
    assert np.sum(there) == 19
    np.testing.assert_allclose(found.error[there], known["train_err"][there], rtol=0.01)
    assert np.all(found.error[~there] < 1e-30)


LONG = [
    pytest.param(name, marks=pytest.mark.exhaustive) for name in ("g1.0_a0.4", "g5.0_a0.4")
]


@pytest.mark.parametrize("name", [*LONG, "g2.0_a0.6", "g5.0_a0.6"])
def test_binary_entropies_around_minimizers(replica_reference, name):
    check_binary(replica_reference["binary_perceptron_fp"][name], name)


@pytest.mark.exhaustive
def test_binary_entropies_around_typical_solutions(replica_reference):
    check_binary(replica_reference["binary_perceptron_fp"]["typ_a0.4"], "typ_a0.4")
    # Isolated: there are no others nearby.
    far, near = theory.franz_parisi(
        PERCEPTRON, 0.6, np.array([0.1, 0.01]), weights="binary"
    ).entropy
    close(far, 0.1187, 6e-5)
    close(near, -0.0087, 6e-5)


def check_binary(table, name):
    rows = np.array(table["curve"])
    kind, load = name.split("_a")
    strength = None if kind == "typ" else float(kind[1:])
    found = theory.franz_parisi(
        PERCEPTRON, float(load), rows[:, 0], strength=strength, weights="binary"
    )
    assert np.all(found.converged)
    close(found.entropy, rows[:, 1], 4e-5 if strength == 5 else 3e-6)
    close(found.entropy - found.normalized, rows[:, 2], 6e-7)


def test_local_energies(replica_reference):
    table = replica_reference["perceptron_local_energy_theory_alpha1"]
    for strength in (1, 2, 5):
        radii = np.array(table["eps"])
        found = theory.local_energy(PERCEPTRON, 1.0, float(strength), radii)
        # That reference has few points close to field zero.
        close(found, table["theory"][str(strength)], 3e-4)
        close(found, table["sim_n500_3seeds"][str(strength)], 3e-3)


def test_minimizers_are_those_of_descent():
    """Twelve of them, of 300 weights, by L-BFGS on the sphere."""
    size, strength, radii = 300, 1.0, np.array([0.2, 0.5])
    rng = np.random.default_rng(1)
    errors, energies, local = [], [], []
    for _ in range(12):
        x = rng.standard_normal((size, size))

        def loss(w, x=x):
            norm = np.linalg.norm(w)
            fields = x @ w / norm
            value = np.mean(np.logaddexp(0, -2 * strength * fields)) / (2 * strength)
            slope = -(x.T @ expit(-2 * strength * fields)) / (size * norm)
            return value, slope - w * (w @ slope) / norm**2

        found = minimize(loss, x.sum(0), jac=True, method="L-BFGS-B", tol=1e-12)
        fields = x @ found.x / np.linalg.norm(found.x)
        errors.append(np.mean(fields < 0))
        energies.append(found.fun)
        local.append(np.mean(ndtr(-fields[None] / radii[:, None]), axis=1))
    predicted = theory.cross_entropy_minimizer(PERCEPTRON, 1.0, strength)
    shake = theory.local_energy(PERCEPTRON, 1.0, strength, radii)
    for samples, value in ((errors, predicted.error), (energies, predicted.energy)):
        close(np.mean(samples), value, 4 * np.std(samples) / np.sqrt(11))
    spread = 4 * np.std(local, axis=0) / np.sqrt(11)
    assert np.all(np.abs(np.mean(local, axis=0) - shake) < spread)


def test_little_noise_leaves_the_error_of_the_minimizer():
    """Where the error is a step of the field, narrower than nodes are apart."""
    for kernel in (PERCEPTRON, RELU):
        for strength in (1.0, 30.0):
            found = theory.local_energy(kernel, 3.0, strength, 1e-7)
            error = theory.cross_entropy_minimizer(kernel, 3.0, strength).error
            close(found, error, 2e-7)


@pytest.mark.parametrize("margin", [-3.0, 0.0, 2.0])
def test_margins_are_resolved(margin):
    """Close to their capacity, where volumes jump within a thousandth of a field."""
    load = 0.999 * theory.capacity(PERCEPTRON, margin=margin)
    found = theory.gardner(PERCEPTRON, load, margin=margin)
    q, rest = float(found.overlap), 1 - float(found.overlap)
    assert rest < 0.01

    def energy(q):
        field = lambda t: (np.sqrt(q) * t - margin) / np.sqrt(1 - q)
        density = lambda t: np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
        ends = {"points": [margin / np.sqrt(q)], "epsabs": 1e-13, "epsrel": 1e-13}
        return quad(lambda t: density(t) * log_ndtr(field(t)), -9, 9, limit=500, **ends)[0]

    # Some -22 for the first, the sum of larger ones.
    close(found.entropy, (np.log(rest) + q / rest) / 2 + load * energy(q), 1e-8)
    step = 1e-4 * rest
    slope = (energy(q + step) - energy(q - step)) / (2 * step)
    np.testing.assert_allclose(q / rest**2, -2 * load * slope, rtol=1e-6)


def test_solutions_close_to_typical_ones_are_resolved():
    """Where they are decided by fields within a hundredth of zero."""
    distance, load = 1e-4, 0.8
    S = 1 - 2 * distance
    found = theory.franz_parisi(PERCEPTRON, load, distance)
    assert found.converged
    q, p, t = float(theory.gardner(PERCEPTRON, load).overlap), found.overlap, found.cross
    z, weight = normal(201)
    depth = np.linspace(0, 1, 2001)[1:]
    fields = (8.5 + np.sqrt(q / (1 - q)) * 8.5) * depth**3
    z, y = z[:, None, None], normal(41)
    own = (fields[:, None] - np.sqrt(q) * z) / np.sqrt(1 - q)
    density = np.exp(-(own**2) / 2) * depth[:, None] ** 2
    noise = p - t**2 / q - (S - t) ** 2 / (1 - q)
    mean = t / np.sqrt(q) * z + (S - t) / np.sqrt(1 - q) * own
    shifts = np.sqrt(noise) * y[0][None, None]
    volume = log_ndtr((np.asarray(mean) + shifts) / np.sqrt(1 - p)) @ y[1]
    energy = np.sum(density[..., 0] * volume, 1) / np.sum(density[..., 0], 1)
    s = (S**2 - t**2 - q * (S - t) ** 2 / (1 - q)) / (1 - q)
    entropy = (np.log1p(-p) + (p - s) / (1 - p)) / 2 + load * weight @ energy
    close(found.entropy, entropy, 1e-7)


def test_what_nodes_do_not_resolve_is_nan(monkeypatch):
    monkeypatch.setattr(theory.references, "OWN", 28)
    jax.clear_caches()
    closer = theory.franz_parisi(PERCEPTRON, 0.8, np.array([1e-5, 0.1]))
    jax.clear_caches()
    np.testing.assert_array_equal(closer.converged, [False, True])
    assert np.isnan(closer.entropy[0])
    # Nor are fields of a minimizer whose stiffness is not known.
    assert np.isnan(theory.cross_entropy_minimizer(PERCEPTRON, 5.0, 1e3).log_stiffness)
    around = theory.franz_parisi(PERCEPTRON, 5.0, np.array([0.1]), strength=1e3)
    assert np.isnan(around.entropy) & ~around.converged & np.isinf(around.residual)
    assert np.isnan(theory.local_energy(PERCEPTRON, 5.0, 1e3, 0.1))
    # Replicas would be further from one another than typical solutions are.
    found = theory.widest_entropy(PERCEPTRON, 0.8, np.array([0.1, 0.3]))
    np.testing.assert_array_equal(np.isnan(found), [False, True])


def test_noise_takes_units_from_their_error_to_chance():
    radii = np.array([1e-4, 0.3, 1.0, 1e4])
    found = theory.local_energy(RELU, 1.0, 1.0, radii)
    close(found[0], theory.cross_entropy_minimizer(RELU, 1.0, 1.0).error, 1e-4)
    close(found[-1], 0.5, 1e-3)
    assert np.all(np.diff(found) > 0)


def test_parity_machines_have_a_cusp():
    distances = np.array([1e-8, 0.1])
    found = theory.parity_entropy(3, 0.5, distances)
    close(found[0] / np.sqrt(1e-8), -2 * 0.5 * 3 / np.pi, 1e-3)
    rng = np.random.default_rng(0)
    fields = rng.standard_normal((200_000, 3, 2))
    other = 0.8 * fields[..., 0] + 0.6 * fields[..., 1]
    agree = np.prod(fields[..., 0] * other, axis=1) > 0
    close(np.exp(found[1] / 0.5), agree.mean(), 4 * agree.std() / np.sqrt(agree.size))


def test_bad_input_is_refused_before_anything_is_compiled():
    refused = [
        (theory.gardner, (PERCEPTRON, 0.0), {}, "load.* must be positive"),
        (theory.gardner, (PERCEPTRON, 1.0), {"weights": "ternary"}, "ternary"),
        (theory.capacity, (PERCEPTRON,), {"weights": "ternary"}, "ternary"),
        (theory.capacity_one_step, (SIGN,), {}, "committee_capacity"),
        (theory.committee_capacity, (4,), {}, "odd"),
        (theory.committee_capacity, (-1,), {}, "positive"),
        (theory.franz_parisi, (PERCEPTRON, -1.0, 0.1), {}, "load"),
        (theory.franz_parisi, (PERCEPTRON, 1.0, 0.5), {}, "between 0 and 1/2"),
        (
            theory.franz_parisi,
            (PERCEPTRON, 1.0, np.array([0.1, 0.0])),
            {},
            "between 0 and 1/2",
        ),
        (theory.franz_parisi, (PERCEPTRON, 1.0, 0.1), {"strength": 0.0}, "strength"),
        (theory.franz_parisi, (SIGN, 1.0, 0.1), {"strength": 1.0}, "finite `slope`"),
        (theory.cross_entropy_minimizer, (SIGN, 1.0, 1.0), {}, "finite `slope`"),
        (theory.cross_entropy_minimizer, (RELU, 1.0, -1.0), {}, "strength"),
        (theory.local_energy, (RELU, 1.0, 1.0, 0.0), {}, "radius"),
        (theory.local_energy, (SIGN, 1.0, 1.0, 0.1), {}, "finite `slope`"),
        (theory.replica_entropy, (RELU, 1.0, 0.1, 0), {}, "must be positive"),
        (theory.replica_entropy, (RELU, 1.0, 0.7, 2), {}, "between 0 and 1/2"),
        (theory.widest_entropy, (RELU, 0.0, 0.1), {}, "load"),
        (theory.parity_entropy, (1, 1.0, 0.1), {}, "at least 2"),
        (theory.parity_entropy, (3, np.nan, 0.1), {}, "load"),
    ]
    for function, given, options, message in refused:
        with pytest.raises(ValueError, match=message):
            function(*given, **options)
