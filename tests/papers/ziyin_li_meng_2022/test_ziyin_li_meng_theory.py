"""Ziyin, Li & Meng (2022): every statement against direct numerics."""

import functools as ft
import itertools as it

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.scipy.optimize import minimize

import jaxflow as jf
from jaxflow.papers import ziyin_li_meng_2022 as theory

A3 = np.array([[1.0, 0.3, 0.0], [0.3, 0.5, 0.1], [0.0, 0.1, 2.0]])
G3 = np.array([0.8, -0.2, 0.5])


def problem_of(given):
    return jf.Regression.from_moments(
        np.array(given["A"]), np.array(given["g"]), given["y2"]
    )


def setting_of(given):
    """Widths, variances and decays."""
    widths = tuple(int(d) for d in given["widths"])
    return widths, {
        "variance": jnp.array(given["sig2"], float),
        "decay": jnp.array([*given["gam"], given["gu"]], float),
    }


def isotropic(size=1.0, signal=1.0, inputs=3, power=2.0):
    cross = np.eye(inputs)[0] * signal
    return jf.Regression.from_moments(
        size * np.eye(inputs), cross, power * signal**2 / size
    )


def whole(problem, variance, decay):
    return jf.losses.ExpectedNoisyLoss(problem, variance) + jf.WeightDecay(decay)


def solve(problem, widths, variance, decay):
    options = {"variance": variance, "decay": decay}
    found = theory.minimum(problem, widths, **options)
    return found, theory.stationary(problem, widths, **options)


@pytest.mark.parametrize("number", range(10))
def test_minima_agree_with_the_independent_implementation(noisy_reference, number):
    case = noisy_reference["cases"][number]
    problem, (widths, options) = problem_of(case["input"]), setting_of(case["input"])
    found, roots = solve(problem, widths, **options)
    np.testing.assert_allclose(found.loss, case["loss"], rtol=1e-12)
    np.testing.assert_allclose(found.loss, case["lbfgs_best"], rtol=1e-12)
    np.testing.assert_allclose(found.map, case["v"], rtol=1e-10, atol=1e-14)
    network = theory.configuration(problem, widths, found.map, decay=options["decay"])
    value, slope = jax.value_and_grad(whole(problem, **options))(network)
    np.testing.assert_allclose(value, found.loss, rtol=1e-13)
    assert all(np.max(np.abs(w)) < 1e-13 for w in slope.weights)
    if not widths:
        return
    assert bool(found.trivial) == case["global_is_origin"]
    there = ~np.isnan(roots.loss)
    assert np.all(np.diff(roots.scale[there]) < 0)
    np.testing.assert_allclose(roots.scale[there][::-1], case["roots_zeta"], rtol=1e-10)
    np.testing.assert_allclose(roots.loss[there][::-1], case["roots_loss"], rtol=1e-13)
    wanted = np.arange(there.sum()) % 2 == 0
    np.testing.assert_array_equal(roots.stable[there], wanted)
    assert not np.any(roots.stable[~there])
    if not found.trivial:
        first, *middle, last = network.weights
        np.testing.assert_allclose(first, [case["w1_row"]] * widths[0], rtol=1e-10)
        np.testing.assert_allclose(last, case["b_u"], rtol=1e-12)
        for layer, b in zip(middle, case["b_i"], strict=True):
            np.testing.assert_allclose(layer, b, rtol=1e-12)
        spread = theory.prediction_variance(problem, widths, **options)
        np.testing.assert_allclose(spread, case["mean_pred_variance"], atol=1e-14)


def test_losses_at_fixed_weights_agree_with_the_independent_implementation(noisy_reference):
    for case in noisy_reference["loss_at_fixed_weights"]:
        problem, (widths, options) = problem_of(case["input"]), setting_of(case["input"])
        shapes = [(b, a) for a, b in it.pairwise((3, *widths, 1))]
        ends = list(it.accumulate(a * b for a, b in shapes))
        pieces = np.split(np.sin(np.arange(1, ends[-1] + 1)), ends[:-1])
        pairs = zip(pieces, shapes, strict=True)
        network = jf.DeepLinear(tuple(jnp.array(w.reshape(s)) for w, s in pairs))
        value, slope = jax.value_and_grad(whole(problem, **options))(network)
        np.testing.assert_allclose(value, case["loss"], rtol=1e-13)
        norm = jnp.sqrt(sum(jnp.sum(w**2) for w in slope.weights))
        np.testing.assert_allclose(norm, case["grad_norm"], rtol=1e-13)
        np.testing.assert_allclose(network.product[0], case["v"], rtol=1e-12)


@pytest.mark.parametrize("number", range(7))
def test_transitions_of_isotropic_data_are_at_the_closed_forms(noisy_reference, number):
    case = noisy_reference["phase_isotropic"][number]
    widths, options = (4,) * case["D"], {"variance": case["sig2"]}
    critical = theory.critical_point(isotropic(), widths, **options)
    spinodal = theory.spinodal_point(isotropic(), widths, **options)
    for found, end in ((critical, "c"), (spinodal, "s")):
        np.testing.assert_allclose(found.decay, case[f"gamma_{end}"], rtol=1e-12)
        np.testing.assert_allclose(found.size, case[f"v_at_gamma_{end}"], atol=1e-12)


def test_two_and_three_hidden_layers_jump_where_they_are_known_to():
    for depth, critical, spinodal, jump in (
        (2, 0.3968502630, 0.4724703937, 1 / 2),
        (3, 0.2721655270, 0.3849001795, 2 / 3),
    ):
        found = theory.critical_point(isotropic(), (4,) * depth)
        np.testing.assert_allclose(found, (critical, jump), rtol=1e-9)
        top = theory.spinodal_point(isotropic(), (4,) * depth).decay
        np.testing.assert_allclose(top, spinodal, rtol=1e-9)


@pytest.mark.parametrize("number", range(3))
def test_transitions_of_other_data_agree_with_the_reference(noisy_reference, number):
    case = noisy_reference["phase_anisotropic"][number]
    problem = jf.Regression.from_moments(A3, G3, 1.5)
    widths, options = (4,) * case["D"], {"variance": case.get("sig2", 0.3)}
    critical = theory.critical_point(problem, widths, **options)
    np.testing.assert_allclose(critical.decay, case["gamma_c"], rtol=1e-12)
    if case["D"] > 1:
        np.testing.assert_allclose(critical.size, case["v_norm_at_gamma_c"], rtol=1e-8)
        spinodal = theory.spinodal_point(problem, widths, **options)
        np.testing.assert_allclose(spinodal.decay, case["gamma_s"], rtol=1e-8)
        variances = np.linalg.eigvalsh(A3)
        bounds = [
            theory.critical_point(isotropic(a, np.linalg.norm(G3)), widths, **options).decay
            for a in (variances[-1], variances[0])
        ]
        np.testing.assert_allclose(bounds, case["bounds"], rtol=1e-12)
    else:
        size = theory.critical_point(problem, widths, variance=2.0)
        np.testing.assert_allclose(size, (case["gamma_c"], 0))


def test_transitions_without_noise_are_those_of_direct_numerics():
    """From a scan and bisections, of an independent implementation."""
    problem = jf.Regression.from_moments(A3, G3, 1.5)
    critical = theory.critical_point(problem, (4, 4))
    np.testing.assert_allclose(critical, (0.3900081391, 0.6408155), rtol=1e-7)
    spinodal = theory.spinodal_point(problem, (4, 4)).decay
    np.testing.assert_allclose(spinodal, 0.4551396, rtol=1e-7)


def test_one_hidden_layer_dies_continuously_with_an_exponent_of_one_half():
    """The weights like the root of the distance; at equality the origin is the minimum."""
    problem, distance = isotropic(), 1e-6
    at = lambda decay: theory.minimum(problem, (4,), variance=0.5, decay=decay)
    assert at(1.0).trivial
    slope = at(1 - distance).scale ** 0.5 / 2 / distance**0.5
    np.testing.assert_allclose(slope, (4 / 4.5 / 4) ** 0.5, rtol=1e-5)


def test_without_signal_the_minimum_is_zero_at_once():
    problem = jf.Regression.from_moments(np.eye(2), np.zeros(2), 1.0)
    for point in (theory.critical_point, theory.spinodal_point):
        np.testing.assert_array_equal(point(problem, (4,)).decay, 0)


def test_minima_jump_at_the_critical_decay_and_solutions_end_at_the_spinodal():
    problem, widths = jf.Regression.from_moments(A3, G3, 1.5), (4, 4)
    critical = theory.critical_point(problem, widths, variance=0.5)
    spinodal = theory.spinodal_point(problem, widths, variance=0.5)
    at = lambda decay: solve(problem, widths, jnp.full(2, 0.5), jnp.full(3, decay))
    before, _ = at(critical.decay * (1 - 1e-10))
    behind, _ = at(critical.decay * (1 + 1e-10))
    assert not before.trivial
    assert behind.trivial
    np.testing.assert_allclose(np.linalg.norm(before.map), critical.size, rtol=1e-8)
    np.testing.assert_allclose(before.loss, 1.5, rtol=1e-9)
    _, below = at(spinodal.decay * (1 - 1e-8))
    _, above = at(spinodal.decay * (1 + 1e-8))
    assert np.sum(~np.isnan(below.loss)) == 2
    assert np.all(np.isnan(above.loss))
    np.testing.assert_allclose(
        np.linalg.norm(below.map[:2], axis=1), spinodal.size, rtol=1e-3
    )


@pytest.mark.parametrize("depth", range(1, 4))
def test_order_parameters_agree_with_the_reference(noisy_reference, depth):
    cases = [c for c in noisy_reference["order_parameter_iso_w4_s0.5"] if c["D"] == depth]
    decays = jnp.array([c["gamma"] for c in cases])
    problem, widths = isotropic(), (4,) * depth
    run = lambda g: theory.minimum(problem, widths, variance=0.5, decay=g)
    found = jax.vmap(run)(decays)
    lengths = np.linalg.norm(found.map, axis=1)
    np.testing.assert_allclose(lengths, [c["v"] for c in cases], atol=1e-10)
    np.testing.assert_allclose(found.loss, [c["loss"] for c in cases], rtol=1e-12)
    b = np.sqrt(found.scale) / 4
    np.testing.assert_allclose(b, [c["b_equal_param"] for c in cases], atol=1e-10)


def test_the_hessian_at_the_origin_is_that_of_direct_numerics(noisy_reference):
    case = noisy_reference["origin_hessian"]["D1"]
    problem = jf.Regression.from_moments(A3, np.array(case["input"]["g"]), 1.5)
    found = theory.origin_spectrum(problem, (4,), decay=(0.2, 0.3))
    np.testing.assert_allclose(np.unique(np.round(found, 12)), case["eigs"], rtol=1e-11)
    several = jf.Regression.from_moments(A3, np.stack([G3, -2 * G3[::-1]]), 20.0)
    found = theory.origin_spectrum(several, (), decay=0.3)
    wanted = np.repeat(2 * np.linalg.eigvalsh(A3) + 0.6, 2)
    np.testing.assert_allclose(found, wanted, rtol=1e-13)
    decays = (0.2, 0.3, 0.25)
    for loss, widths in ((several, (2,)), (problem, (2, 2))):
        outputs, decay = loss.target.shape[0], decays[: len(widths) + 1]
        zero = jf.init.gaussian((3, *widths, outputs), scale=0.0, key=jr.key(0))
        flat, unravel = ravel_pytree(zero)
        noisy = whole(loss, (0.5,) * len(widths), decay)
        value = lambda w, noisy=noisy, unravel=unravel: noisy(unravel(w))
        hessian = jax.jit(jax.hessian(value))(flat)
        found = theory.origin_spectrum(loss, widths, decay=decay)
        np.testing.assert_allclose(found, np.linalg.eigvalsh(hessian), atol=1e-13)


@pytest.mark.parametrize("number", range(2))
def test_aligned_starts_escape_above_the_threshold_and_only_there(noisy_reference, number):
    case = noisy_reference["gradient_flow_threshold"][number]
    problem, (widths, options) = problem_of(case["input"]), setting_of(case["input"])
    norm = theory.escape_norm(problem, widths, **options)
    np.testing.assert_allclose(norm, case["n_barrier"], rtol=1e-10)
    if number:  # One flow is enough.
        return
    found, _ = solve(problem, widths, **options)

    def end(size):
        vector = size ** (len(widths) + 1) * problem.target[0]  # Of length one.
        start = theory.configuration(problem, widths, vector, decay=options["decay"])
        assert np.allclose([np.linalg.norm(w) for w in start.weights], size)
        loss = whole(problem, **options)
        return jf.gradient_flow(loss, start, jnp.array([0.0, 300.0]))

    below, above = (end(factor * case["n_barrier"]) for factor in (0.99, 1.01))
    np.testing.assert_allclose(below.observed["loss"][-1], case["input"]["y2"], rtol=1e-10)
    np.testing.assert_allclose(above.observed["loss"][-1], found.loss, rtol=1e-10)


def test_where_the_origin_is_a_saddle_or_alone_no_start_or_all_are_trapped():
    for widths, decay, wanted in (
        ((3,), 0.5, 0.0),
        ((3,), 1.5, np.inf),
        ((3, 3), 0.5, np.inf),
    ):
        assert theory.escape_norm(isotropic(), widths, decay=decay) == wanted


def test_several_outputs_agree_with_the_reference(noisy_reference):
    case = noisy_reference["multi_output"]
    cross = np.diag(case["singular_values"])
    problem = jf.Regression.from_moments(np.eye(3), cross, case["y2"])
    for name, widths in (
        ("D1", (3,)),
        ("D2", (3, 3)),
        ("D3", (3, 3, 3)),
        ("D1_noise", (5,)),
    ):
        given = case[name]
        decay = (*given["gam"], given["gu"])
        variance = given.get("sig2", 0.0)
        found = theory.modes(problem, widths, variance=variance, decay=decay)
        np.testing.assert_allclose(found.loss, given["loss"], rtol=1e-11)
        assert np.all(np.diff(found.values) <= 0)


@pytest.mark.parametrize(("width", "variance"), [(2, 0.8), (5, 0.0)])
def test_several_outputs_fit_through_narrow_layers(width, variance):
    cross = np.diag([1.0, 0.6, 0.4])
    problem = jf.Regression.from_moments(1.5 * np.eye(3), cross, 3.0)
    found = theory.modes(problem, (width,), variance=variance, decay=(0.1, 0.15))
    assert np.sum(found.values > 0) == min(width, 3)
    best = np.min(descend(whole(problem, variance, (0.1, 0.15)), (3, width, 3), jr.key(0)))
    np.testing.assert_allclose(found.loss, best, rtol=1e-9)


def test_several_outputs_include_one():
    problem = isotropic(2.0, 1.0)
    for widths, variance in (((), 0.0), ((3,), 0.7), ((3, 2), 0.0)):
        one = theory.minimum(problem, widths, variance=variance, decay=0.2)
        several = theory.modes(problem, widths, variance=variance, decay=0.2)
        np.testing.assert_allclose(several.loss, one.loss, rtol=1e-13)
        np.testing.assert_allclose(several.values[0], np.linalg.norm(one.map), rtol=1e-12)


def test_weak_variances_have_the_transitions_of_the_reference(noisy_reference):
    case = noisy_reference["gradient_flow_random_init_threshold"]
    problem = isotropic(1e-3)
    for depth in (2, 3):
        given, widths = case[f"D{depth}"], (4,) * depth
        critical = theory.critical_point(problem, widths).decay
        np.testing.assert_allclose(critical, given["gamma_c"], rtol=2e-4)
        spinodal = theory.spinodal_point(problem, widths).decay
        np.testing.assert_allclose(spinodal, given["gamma_s"], rtol=2e-4)


def test_prediction_variances_agree_with_the_reference(noisy_reference):
    case = noisy_reference["prediction_variance"]
    problem, x = isotropic(inputs=2), jnp.array([1.0, 0.0])

    def found(widths, variance):
        options = {"variance": variance, "decay": 1e-3}
        at_x = theory.prediction_variance(problem, widths, x, **options)
        mean = theory.prediction_variance(problem, widths, **options)
        np.testing.assert_allclose(at_x, mean, rtol=1e-13)
        return mean

    for variance, wanted in case["D1_w4"].items():
        np.testing.assert_allclose(found((4,), float(variance)), wanted, rtol=1e-10)
    for width, wanted in case["D2_sig2_1_width"].items():
        np.testing.assert_allclose(found((int(width),) * 2, 1.0), wanted, rtol=1e-10)
    for depth, wanted in case["depth_w4_sig2_1"].items():
        np.testing.assert_allclose(found((4,) * int(depth), 1.0), wanted, rtol=1e-9)


def draw(key, widths, inputs):
    """A random problem and its strengths, on either side of the transition."""
    keys = jr.split(key, 6)
    x = jr.normal(keys[0], (8, inputs)) * jnp.exp(0.7 * jr.normal(keys[1], (1, inputs)))
    y = x @ jr.normal(keys[2], (inputs, 1)) + 0.3 * jr.normal(keys[3], (8, 1))
    problem = jf.Regression.from_data(x, y)
    logs = jr.uniform(keys[4], (len(widths) + 1,), minval=-4, maxval=0.3)
    scale = jnp.linalg.norm(problem.target @ problem.covariance)
    scale *= 1 if len(widths) == 1 else 0.6
    return problem, jr.uniform(keys[5], (len(widths),)), jnp.exp(logs) * scale


def descend(loss, widths, key, starts=20):
    """The ends of quasi-Newton descents from small to large random starts."""
    flat, unravel = ravel_pytree(jf.init.gaussian(widths, scale=1.0, key=key))

    def one(key, scale):
        start = scale * jr.normal(key, flat.shape)
        options = {"gtol": 1e-7, "maxiter": 150}
        value = lambda w: loss(unravel(w))
        return minimize(value, start, method="BFGS", options=options).fun

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        scales = jnp.linspace(0.3, 1.5, starts)
        return jax.jit(jax.vmap(one))(jr.split(key, starts), scales)


@pytest.mark.parametrize(
    ("widths", "count"),
    [
        ((2, 2), 60),
        pytest.param((2,), 300, marks=pytest.mark.exhaustive),
        pytest.param((2, 2), 400, marks=pytest.mark.exhaustive),
        pytest.param((1, 2, 1), 300, marks=pytest.mark.exhaustive),
    ],
)
def test_no_descent_finds_less_and_the_best_of_twenty_finds_as_much(widths, count):
    def one(key):
        problem, variance, decay = draw(key, widths, 2)
        found = theory.minimum(problem, widths, variance=variance, decay=decay)
        ends = descend(whole(problem, variance, decay), (2, *widths, 1), key)
        return found.loss, found.trivial, jnp.min(ends)

    keys = jr.split(jr.key(0), count)
    run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=100))
    found, trivial, best = run(keys)
    np.testing.assert_allclose(found, best, rtol=1e-9, atol=1e-9)
    assert np.all(found <= best + 1e-12)
    assert 0 < np.mean(trivial) < 0.5


def test_no_weights_beat_the_effective_loss_of_their_map():
    problem, widths = jf.Regression.from_moments(A3, G3, 1.5), (3, 4)
    variance, decay = (0.4, 0.7), (0.1, 0.05, 0.2)
    loss, options = whole(problem, variance, decay), {"variance": variance, "decay": decay}

    def gap(key):
        network = jf.init.gaussian((3, *widths, 1), scale=0.7, key=key)
        vector = network.product[0]
        least = theory.effective_loss(problem, widths, vector, **options)
        best = theory.configuration(problem, widths, vector, decay=decay)
        gaps = loss(network) - least, loss(best) - least, best.product[0] - vector
        return jax.tree.map(lambda x: jnp.max(jnp.abs(x)), gaps[1:]), gaps[0]

    (at_best, missed), above = jax.jit(jax.vmap(gap))(jr.split(jr.key(0), 1000))
    assert np.all(above > 0)
    np.testing.assert_allclose(at_best, 0, atol=1e-12)
    np.testing.assert_allclose(missed, 0, atol=1e-12)


def test_all_signs_are_as_good_and_without_noise_all_rotations():
    problem, decay = jf.Regression.from_moments(A3, G3, 1.5), (0.05, 0.1, 0.08)
    signs = [np.array([1.0, -1.0, 1.0]), np.array([-1.0, -1.0])]
    for variance in (0.5, 0.0):
        options = {"variance": variance, "decay": decay}
        loss, found = (
            whole(problem, variance, decay),
            solve(problem, (3, 2), jnp.full(2, variance), jnp.array(decay))[0],
        )
        network = theory.minimizer(problem, (3, 2), signs=signs, **options)
        np.testing.assert_allclose(loss(network), found.loss, rtol=1e-13)
        turn = jnp.linalg.qr(jr.normal(jr.key(0), (3, 3)))[0]
        first, second, last = network.weights
        turned = loss(jf.DeepLinear((turn @ first, second @ turn.T, last)))
        assert (turned - found.loss > 1e-3) == (variance > 0)
        if variance == 0:
            np.testing.assert_allclose(turned, found.loss, rtol=1e-13)


def test_of_four_solutions_two_are_local_minima(noisy_reference):
    case = noisy_reference["cases"][9]
    problem, (widths, options) = problem_of(case["input"]), setting_of(case["input"])
    _, roots = solve(problem, widths, **options)
    assert np.all(np.isfinite(roots.loss))
    loss = whole(problem, **options)
    lowest = []
    for vector in roots.map:
        network = theory.configuration(problem, widths, vector, decay=options["decay"])
        hessian = np.linalg.eigvalsh(jf.hessian(loss, network).as_matrix())
        assert np.sum(hessian < 0) in (0, 1)
        lowest.append(hessian[0])
    np.testing.assert_allclose(lowest[::2], [0.195, 0.0094], rtol=0.01)
    np.testing.assert_array_equal(np.array(lowest) > 0, roots.stable)


def test_all_solutions_are_found_and_lie_within_the_bounds():
    """Beside a fine scan; the bound with the largest eigenvalue does not hold."""
    hidden, inputs = 2, 4
    widths = (3,) * hidden
    fine = jnp.linspace(-40, 40, 8001)

    def one(key):
        keys = jr.split(key, 3)
        variances = jnp.exp(jr.uniform(keys[0], (inputs,), minval=-5, maxval=5))
        signal = jr.normal(keys[1], (inputs,)) * variances ** jr.uniform(keys[2])
        floor = jnp.zeros(())
        problem = jf.Regression((signal / variances)[None], jnp.diag(variances), floor)
        spinodal = theory.spinodal_point(problem, widths, variance=0.5)
        decay = spinodal.decay * jnp.exp(-3 * jr.uniform(keys[2]) ** 2 - 1e-3)
        options = {"variance": 0.5, "decay": decay}
        scales = theory.stationary(problem, widths, **options).scale
        kept, power = (3 / 3.5) ** hidden, hidden / (hidden + 1)

        def level(log):
            ridge = signal / (variances + jnp.exp(log))
            noise = (2 * power - 1) * jnp.log(kept)
            return log + power * jnp.log(jnp.sum(ridge**2)) + noise - jnp.log(decay)

        signs = jax.vmap(level)(fine) > 0
        wrong = kept * jnp.linalg.norm(signal) / jnp.max(variances)
        bounds = theory.norm_bounds(problem, widths, **options)
        return jnp.sum(signs[1:] != signs[:-1]), scales, bounds, wrong

    keys = jr.split(jr.key(1), 1000)
    count, scales, bounds, wrong = jax.jit(jax.vmap(one))(keys)
    there = ~np.isnan(scales)
    np.testing.assert_array_equal(there.sum(axis=1), count)
    assert np.sum(count == 4) >= 3
    norms = np.sqrt(scales)
    assert np.all((norms <= bounds.upper[:, None] * (1 + 1e-12))[there])
    assert np.all((norms >= bounds.lower[:, None] * (1 - 1e-12))[there])
    limit = wrong[:, None] ** (1 / (hidden + 1))
    assert np.mean((norms > limit)[there]) > 0.3


def test_samples_of_the_noise_average_to_the_minimal_loss():
    x = np.random.default_rng(0).normal(size=(6, 3))
    y = x @ np.array([1.0, -0.5, 0.3]) + 0.2
    problem = jf.Regression.from_data(x, y)
    options = {"variance": (0.3, 0.5), "decay": 0.02}
    network = theory.minimizer(problem, (3, 4), **options)
    error = jf.MeanSquaredError(x, y)
    loss = jf.losses.SampledNoisyLoss(
        error, (0.3, 0.5), jr.key(0), 2000, jf.networks.dropout_factors
    )
    values = jax.vmap(error.criterion)(loss.outputs(network))
    values += jf.WeightDecay(0.02)(network)
    exact = theory.minimum(problem, (3, 4), **options).loss
    assert abs(values.mean() - exact) < 4 * values.std() / len(values) ** 0.5


def test_derivatives_are_those_of_the_envelope_theorem():
    problem, widths = jf.Regression.from_moments(A3, G3, 1.5), (3, 4)
    decay, variance = jnp.array([0.05, 0.04, 0.03]), jnp.array([0.4, 0.3])

    def least(cross, covariance, decay, variance):
        target = jnp.linalg.solve(covariance, cross)
        floor = 1.5 - cross @ target
        problem = jf.Regression(target[None], covariance, floor)
        return theory.minimum(problem, widths, variance=variance, decay=decay).loss

    point = (jnp.asarray(G3), jnp.asarray(A3), decay, variance)
    slopes = jax.jit(jax.grad(least, argnums=(0, 1, 2, 3)))(*point)
    options = {"variance": variance, "decay": decay}
    network = theory.minimizer(problem, widths, **options)
    kept = theory.shrinkage(problem, widths, variance=variance)
    v = network.product[0]
    norms = [jnp.sum(w**2) for w in network.weights]
    # The loss grows with the inverse of the shrinkage, whose slopes these are.
    inverse = 1 / (kept * (jnp.array(widths, float) + variance))
    wanted = (-2 * v, jnp.outer(v, v) / kept, jnp.stack(norms), v @ A3 @ v * inverse)
    cross, covariance, *strengths = slopes
    covariance = (covariance + covariance.T) / 2  # Of which only this part matters.
    for found, exact in zip((cross, covariance, *strengths), wanted, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-10)
    flat = lambda z: least(*point[:2], z[:3], z[3:])
    slope, place = jax.jit(jax.grad(flat)), jnp.concatenate([decay, variance])
    steps = 1e-6 * jnp.eye(5)
    columns = [(slope(place + e) - slope(place - e)) / 2e-6 for e in steps]
    second = jax.jit(jax.hessian(flat))(place)
    np.testing.assert_allclose(second, jnp.stack(columns), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("point", [theory.critical_point, theory.spinodal_point])
def test_transitions_have_derivatives_in_data_and_noise(point):
    widths = (3, 4)

    def at(z):
        turn = jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.5], [0.0, 0.5, 1.0]])
        # Around equal eigenvalues.
        problem = jf.Regression(
            jnp.array([[0.8, -0.2 + z[0], 0.5]]), jnp.eye(3) + z[0] * turn, jnp.zeros(())
        )
        return jnp.stack(point(problem, widths, variance=z[1:]))

    place = jnp.array([0.0, 0.4, 0.3])
    run = jax.jit(lambda z: (at(z), jax.jacfwd(at)(z)))
    value, steps = lambda z: run(z)[0], 1e-5 * jnp.eye(3)
    columns = [(value(place + e) - value(place - e)) / 2e-5 for e in steps]
    found = run(place)[1]
    np.testing.assert_allclose(found, jnp.stack(columns, axis=1), rtol=1e-6, atol=1e-9)


def test_batches_are_single_solutions():
    xs = jr.normal(jr.key(0), (3, 7, 2))
    ys = xs @ jnp.array([[1.0], [0.4]]) + 0.1
    decays, variances = jnp.array([0.01, 0.1, 3.0]), jnp.array([0.0, 0.5, 0.1])

    def run(x, y, decay, variance):
        options = {"variance": variance, "decay": decay}
        return theory.minimum(jf.Regression.from_data(x, y), (2, 2), **options)

    many = jax.jit(jax.vmap(run))(xs, ys, decays, variances)
    for k in range(3):
        one = run(xs[k], ys[k], decays[k], variances[k])
        for found, wanted in zip(many, one, strict=True):
            np.testing.assert_allclose(found[k], wanted, rtol=1e-13, atol=1e-15)
    assert list(many.trivial) == [False, False, True]


@pytest.mark.parametrize("widths", [(), (2,), (2, 2)])
def test_members_of_a_batch_without_a_minimum_are_marked(widths):
    """A strength out of range is refused where it is known, and else `nan`, not zero."""
    problem = isotropic(inputs=2)

    def run(decay, variance):
        options = {"variance": variance, "decay": decay}
        found, roots = solve(problem, widths, **options)
        ends = theory.critical_point(problem, widths, variance=variance)
        return found, roots, theory.escape_norm(problem, widths, **options), ends

    decays = jnp.array([-1.0, 0.0, 0.1, 0.1, 9.0])
    variances = jnp.array([0.0, 0.0, 0.0, -0.5 if widths else 0.0, 0.0])
    found, roots, escape, ends = jax.jit(jax.vmap(run))(decays, variances)
    bad = np.array([True, True, False, bool(widths), False])
    for values in (found.loss, found.scale, escape, *found.map.T):
        np.testing.assert_array_equal(np.isnan(values), bad)
    assert np.all(np.isnan(roots.loss[bad]))
    assert not np.any(found.trivial[bad])
    np.testing.assert_array_equal(np.asarray(found.trivial)[[2, 4]], [False, bool(widths)])
    np.testing.assert_array_equal(np.isnan(ends.decay), variances < 0)


def test_what_is_known_while_tracing_is_refused():
    problem = isotropic(inputs=2)
    run = lambda decay: theory.minimum(problem, (2,), variance=-1.0, decay=decay).loss
    with pytest.raises(ValueError, match=r"variance.*not be negative, but is -1\.0"):
        jax.jit(run)(0.1)
    run = lambda decay: theory.modes(TWO, (2, 2), variance=0.1, decay=decay)
    with pytest.raises(ValueError, match="one hidden layer"):
        jax.jit(run)(0.1)


def test_of_several_outputs_what_is_unknown_is_marked():
    """Noise of two hidden layers, known at run time only."""
    run = lambda variance: theory.modes(TWO, (2, 2), variance=variance, decay=0.1)
    found = jax.jit(jax.vmap(run))(jnp.array([0.0, 0.5]))
    np.testing.assert_array_equal(np.isnan(found.loss), [False, True])
    np.testing.assert_array_equal(np.isnan(found.values), [[False] * 2, [True] * 2])


DEGENERATE = {
    "no signal": (np.eye(2), np.zeros(2)),
    "no variance": (np.zeros((2, 2)), np.zeros(2)),
    "equal eigenvalues": (2 * np.eye(2), np.array([0.6, 0.8])),
    "one sample": (np.outer([3.0, 4.0], [3.0, 4.0]), np.array([3.0, 4.0])),
    "a direction that the signal does not see": (np.diag([1.0, 2.0]), np.array([1.0, 0.0])),
}


@ft.partial(jax.jit, static_argnums=2)
def slope_of_least(problem, decay, widths):
    least = lambda p, g: theory.minimum(p, widths, decay=g).loss
    return jax.value_and_grad(least, argnums=(0, 1))(problem, decay)


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_data_have_solutions_with_derivatives(name):
    covariance, cross = DEGENERATE[name]
    variance = np.linalg.norm(covariance, 2)
    # The same along the first input.
    length = np.linalg.norm(cross)
    line = np.diag([1.0 if name.startswith("a direction") else variance, 0.0])
    line = jf.Regression.from_moments(line, np.array([length, 0.0]), 2.0)
    problem = jf.Regression.from_moments(covariance, cross, 2.0)
    for widths in ((), (2,), (2, 2)):
        value, slopes = slope_of_least(problem, 0.05, widths)
        alone = theory.minimum(line, widths, decay=0.05)
        np.testing.assert_allclose(value, alone.loss, rtol=1e-12)
        assert all(np.all(np.isfinite(s)) for s in jax.tree.leaves(slopes))
        assert bool(alone.trivial) == (length == 0)
    weights = theory.minimizer(problem, (2, 2), decay=0.05).weights
    np.testing.assert_allclose(
        jnp.linalg.norm(weights[0]), jnp.sqrt(alone.scale), rtol=1e-12
    )


def test_without_hidden_layers_it_is_ridge_regression():
    problem = jf.Regression.from_moments(A3, G3, 1.5)
    found = theory.minimum(problem, (), decay=0.3)
    np.testing.assert_allclose(found.map, np.linalg.solve(A3 + 0.3 * np.eye(3), G3))
    assert theory.critical_point(problem, ()).decay == np.inf
    assert theory.spinodal_point(problem, ()).decay == np.inf


def test_single_precision_is_kept():
    problem = jax.tree.map(lambda a: a.astype(jnp.float32), isotropic())
    found = theory.minimum(problem, (4, 4), variance=0.5, decay=0.1)
    assert found.loss.dtype == found.map.dtype == jnp.float32
    np.testing.assert_allclose(found.loss, 1.456666599483231, rtol=1e-5)


BARE = jf.Regression(jnp.ones((1, 2)), jnp.diag(jnp.array([1.0, -0.2])), jnp.zeros(()))
TWO = jf.Regression.from_moments(np.eye(2), np.eye(2), 2.0)
REFUSED = {
    "decay": (isotropic(), {"decay": 0.0}, "decay.*positive, but is 0"),
    "decays": (isotropic(), {"decay": (0.1, 0.1)}, r"each of 3 layers.*\(2,\)"),
    "variance": (isotropic(), {"decay": 0.1, "variance": -1}, "variance.*not be negative"),
    "moments": (BARE, {"decay": 0.1}, "least eigenvalue is -0.2"),
    "outputs": (TWO, {"decay": 0.1}, "must have one output.*but has 2"),
}


@pytest.mark.parametrize(("problem", "options", "fact"), REFUSED.values(), ids=REFUSED)
def test_strengths_and_data_without_a_minimum_are_refused(problem, options, fact):
    with pytest.raises(ValueError, match=fact):
        theory.minimum(problem, (2, 2), **options)


def test_what_a_function_does_not_know_it_refuses():
    problem = jf.Regression.from_moments(A3, G3, 1.5)
    bare = jf.Regression(jnp.ones((1, 2)), jnp.eye(2), jnp.zeros(()), jnp.ones((1, 1)))
    for call, fact in (
        (
            lambda: theory.minimum(problem, (2, 0), decay=0.1),
            r"widths=...\)\[1\]` must be positive, but is 0",
        ),
        (lambda: theory.minimum(bare, (2,), decay=0.1), "readout"),
        (lambda: theory.modes(problem, (2,), decay=0.1), "multiple of the identity"),
        (lambda: theory.modes(TWO, (2, 2), variance=0.1, decay=0.1), "one hidden layer"),
        (
            lambda: theory.escape_norm(isotropic(), (2,), decay=(0.1, 0.2)),
            "the same for all",
        ),
        (lambda: theory.norm_bounds(problem, (), decay=0.1), "must name a hidden layer"),
        (
            lambda: theory.minimizer(problem, (2,), decay=0.1, signs=[np.ones(3)]),
            r"widths \(2,\), but has shapes \[\(3,\)\]",
        ),
    ):
        with pytest.raises(ValueError, match=fact):
            call()
