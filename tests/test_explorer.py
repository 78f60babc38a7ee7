"""The explorer shows what the library computes, compiles once, and is served."""

import importlib.util
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow.papers.data import load_data

EXPLORER = Path(__file__).parents[1] / "notebooks" / "explorer.py"
PROGRAM = {"data": "diabetes", "start": "gaussian", "depth": 3, "steps": 300}
NUMBERS = {"scale": 0.5, "step_size": 0.1, "momentum": 0, "seed": 0}


@pytest.fixture(scope="module")
def explorer():
    found = importlib.util.spec_from_file_location("explorer", EXPLORER)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def show(explorer):
    """What the app shows for some settings, in place of those of its controls."""

    def show(beside=("gradient flow",), program=PROGRAM, **numbers):
        numbers = {**NUMBERS, **numbers}
        defs = {"beside": beside, "program": program, "numbers": numbers}
        return explorer.app.run(defs=defs)[1]

    return show


def test_numbers_are_those_of_the_library(explorer, show):
    shown = show(momentum=0.5)
    ends, limits = shown["ends"], shown["limits"]
    x, y, *_ = load_data("diabetes")
    problem = jf.Regression.from_data(x, y)
    start = jf.init.gaussian((10, 10, 10, 1), scale=0.5 / 10**0.5, key=jr.key(0))
    observe = explorer.OBSERVE

    momentum = eqx.Partial(optax.sgd, momentum=jnp.asarray(0.5))
    options = {"every": 3, "observe": observe, "optimizer": momentum}
    descent = jf.gradient_descent(problem, start, 300, step_size=0.1, **options)
    times = np.linspace(0, 60, 101)
    flow = jf.gradient_flow(problem, start, times, observe=observe, throw=False)
    for name, run in (("gradient descent", descent), ("gradient flow", flow)):
        end = {name: float(values[-1].min()) for name, values in run.observed.items()}
        assert ends[name] == {"status": jf.Status(int(run.status)), **end}
        assert (
            f"{end['loss']:.4g} | {end['excess']:.4g} | {end['sharpness']:.4g}"
            in (shown["lines"])
        )
    for name, minimum in explorer.MINIMA.items():
        assert minimum.__wrapped__.__name__ == f"{name}_sharpness"
        assert limits[name] == minimum(problem, 3)
    assert limits["edge"] == pytest.approx(2 * 1.5 / 0.1)

    # The same, written out.
    network, velocity = start, jax.tree.map(jnp.zeros_like, start)
    slope = jax.jit(jax.grad(problem))
    for _ in range(300):
        velocity = jax.tree.map(lambda v, g: 0.5 * v + g, velocity, slope(network))
        network = jax.tree.map(lambda w, v: w - 0.1 * v, network, velocity)
    for weight, expected in zip(descent.network.weights, network.weights, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-9)


def test_divergence_is_a_verdict(show):
    shown = show(step_size=2.0)
    assert shown["ends"]["gradient descent"]["status"] == jf.Status.DIVERGED
    assert "Gradient descent **diverged" in shown["words"]
    assert "No minimum is flat enough" in shown["words"]
    assert "| gradient descent | not finite |" in shown["lines"]
    assert shown["ends"]["gradient flow"]["status"] == jf.Status.CONVERGED
    assert "No minimum is flat enough" not in show()["words"]


def test_moving_a_slider_compiles_nothing(show, caplog):
    show()
    show(scale=0, step_size=0.02, momentum=0.9, seed=3)
    with jax.log_compiles():
        show(scale=1, step_size=0.5, momentum=0.35, seed=7)
        assert not compilations(caplog)
        jax.jit(lambda x: x + 1)(1.0)
    assert len(compilations(caplog)) == 1


def compilations(caplog):
    return [r for r in caplog.records if r.getMessage().startswith("Compiling")]


def test_other_data_start_and_depth(explorer, show):
    program = {"data": "paper", "start": "residual", "depth": 2, "steps": 100}
    shown = show((), program)
    assert list(shown["ends"]) == ["gradient descent"]

    x, y, *_ = load_data("paper")
    problem = jf.Regression.from_data(x, y, readout=np.full(5, 5**-0.5))
    start = jf.init.residual(5, 2, scale=0.5, key=jr.key(0))
    assert shown["runs"]["gradient descent"].observed["loss"][0] == problem(start)
    least = explorer.MINIMA["flattest"](problem, 2)
    ratio = shown["ends"]["gradient descent"]["sharpness"] / least
    assert f"Its sharpness is {ratio:.3g} times" in shown["words"]


@pytest.mark.parametrize("start", ["orthogonal", "balanced"])
def test_starts(explorer, start):
    network = explorer.draw(start, 5, 3, 0.7, 0)
    assert network.widths == (5, 5, 5, 1)
    norms = [np.linalg.norm(w, 2) for w in network.weights]
    np.testing.assert_allclose(norms, 0.7)


@pytest.mark.exhaustive
def test_central_flow(show):
    shown = show(("gradient flow", "central flow"), scale=1, step_size=0.16)
    assert list(shown["ends"]) == ["gradient descent", "gradient flow", "central flow"]
    # Descent would follow the flow further, but its step size does not let it.
    edge = shown["limits"]["edge"]
    assert shown["ends"]["gradient flow"]["sharpness"] > 1.3 * edge
    np.testing.assert_allclose(shown["ends"]["central flow"]["sharpness"], edge, rtol=0.05)
    np.testing.assert_allclose(
        shown["ends"]["gradient descent"]["sharpness"], edge, rtol=0.1
    )


def test_as_a_script_it_prints_the_verdict(capsys):
    runpy.run_path(str(EXPLORER), run_name="__main__")
    printed = capsys.readouterr().out
    assert "Gradient flow **is still moving" in printed
    assert "| gradient descent | 0.4826 |" in printed


def test_marimo_finds_no_fault():
    command = [sys.executable, "-m", "marimo", "check", "--strict", str(EXPLORER)]
    subprocess.run(command, check=True, timeout=120)


def test_the_page_is_served():
    with served() as address:
        page = urllib.request.urlopen(address, timeout=20).read().decode()
    assert "<title>jaxflow explorer</title>" in page


@contextmanager
def served():
    """The app at an address, until it has been used."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "marimo", "run", "--headless", "--port", str(port)]
    environment = {**os.environ, "XDG_CACHE_HOME": jax.config.jax_compilation_cache_dir}
    with subprocess.Popen(
        [*command, str(EXPLORER)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(300):
                assert server.poll() is None
                try:
                    urllib.request.urlopen(address, timeout=20).close()
                    break
                except urllib.error.URLError:
                    time.sleep(0.2)
            yield address
        finally:
            server.kill()


def test_a_slider_in_a_browser():
    """Needs a Chromium, in the path or named by `CHROMIUM`."""
    names = "chromium", "chromium-browser", "google-chrome", "chrome"
    browser = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, names)), None
    )
    if browser is None:
        pytest.skip("there is no Chromium in the path, and none named by `CHROMIUM`")
    playwright = pytest.importorskip("playwright.sync_api")
    with served() as address, playwright.sync_playwright() as driver:
        options = {"executable_path": browser, "args": ["--no-sandbox", "--no-zygote"]}
        page = driver.chromium.launch(**options).new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.get_by_text("Drawn in").wait_for(timeout=300_000)
        assert page.get_by_text("diverged").count() == 0
        step_size = page.get_by_role("slider").nth(1)
        step_size.focus()
        page.keyboard.press("End")
        page.get_by_text("diverged").wait_for(timeout=60_000)
        picture = page.get_by_role("img", name=re.compile("^Gradient descent diverged"))
        picture.wait_for()
        # Nothing comes from other places.
        assert all(url.startswith((address, "data:", "blob:")) for url in asked)
