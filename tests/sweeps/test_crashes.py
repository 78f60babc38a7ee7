"""Sweeps that are killed, interrupted, or run on other devices: not a bit changes."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import jaxflow as jf

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start a command of `study.py` with a path, on one device if not said otherwise."""
    cache = tmp_path_factory.mktemp("cache")

    def start(command, path, *words, devices=1):
        paths = os.pathsep.join([str(Path(jf.__file__).parents[1]), str(HERE)])
        count = {"JAX_NUM_CPU_DEVICES": str(devices)}
        settings = {"PYTHONPATH": paths} | count
        return subprocess.Popen(
            [sys.executable, HERE / "study.py", command, path, cache, *words],
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="module")
def call(start):
    """The lines that a command of `study.py` prints."""

    def call(*words, **options):
        process = start(*words, **options)
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        return out.splitlines()

    return call


@pytest.fixture(scope="module")
def whole(call, tmp_path_factory):
    """The results of a process that was left alone."""
    path = tmp_path_factory.mktemp("whole") / "runs"
    call("finish", path)
    return jf.load(path).load()


def same(path, whole):
    xr.testing.assert_equal(jf.load(path).load(), whole)
    return True


@pytest.mark.parametrize("kills", [16, pytest.param(30, marks=pytest.mark.exhaustive)])
def test_a_sweep_that_is_killed_again_and_again_is_the_one_that_was_not(
    kills, call, tmp_path
):
    # It compares all that is there with the results in memory after every kill.
    seen = list(map(int, call("crash", tmp_path / "runs", str(kills))))
    assert seen[-1] == 240
    assert len({*seen}) > kills // 10


def test_two_devices_compute_the_same_descents_as_one(call, tmp_path, whole):
    call("finish", tmp_path / "runs", devices=2)
    assert jf.load(tmp_path / "runs").attrs["device"] == "2 x cpu"
    assert same(tmp_path / "runs", whole)


@pytest.mark.exhaustive
def test_two_devices_compute_the_same_flows_as_one(call, tmp_path):
    for devices in (1, 2):
        call("flows", tmp_path / str(devices), devices=devices)
    assert same(tmp_path / "2", jf.load(tmp_path / "1").load())


def test_data_that_are_sharded_give_the_results_of_those_that_are_not(call, tmp_path):
    *names, error = call("sharded", tmp_path / "none", devices=2)
    assert len(names) == 7
    assert error.startswith("`sweep(run=...)` must hold data that fit on one device")


def test_a_sweep_that_was_interrupted_goes_on(start, call, tmp_path, whole):
    process = start("finish", tmp_path / "runs")
    process.stdout.readline()
    while process.poll() is None:  # JAX swallows one that comes as it collects garbage.
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    there = (jf.load(tmp_path / "runs").status != -1).sum().item()
    assert 0 < there < whole.status.size
    # On other devices: groups of chunks are not those of before.
    assert "chunks were found done" in call("finish", tmp_path / "runs", devices=2)[0]
    assert same(tmp_path / "runs", whole)


def test_a_sweep_whose_disk_was_full_goes_on(call, tmp_path, whole):
    error, there = call("full", tmp_path / "runs")
    assert "runs could not be written" in error
    assert "Chunks that are safe there: 1. The same call goes on from there" in error
    assert there == "3 members"
    assert same(tmp_path / "runs", whole)


def test_a_lost_worker_loses_nothing(call, tmp_path, whole):
    call("lose_a_worker", tmp_path / "runs")
    assert same(tmp_path / "runs", whole)


def test_a_chunk_that_kills_its_workers_is_named_and_the_others_are_there(call, tmp_path):
    error, values = call("poison", tmp_path / "runs")
    assert error.startswith("1 of 6 chunks killed every worker that took them")
    assert "chunk 3: seed=0 number=3.0" in error
    assert np.isnan(eval(values, {"nan": np.nan})[0][3])
    assert values == "[[0.0, 1.0, 2.0, nan, 4.0, 5.0]]"
