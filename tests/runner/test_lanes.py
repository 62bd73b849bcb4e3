from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from ddm.errors import InputError
from ddm.runner.lanes import Layout, map_lanes, unwrap_keys, wrap_keys

HERE = str(Path(__file__).parent)

# Trains 22 lanes, half of which diverge; the arguments are the folder and options that differ from
# the tiny run.
TRAIN = """
import sys, warnings
import jax
import linear_regression, tiny
from ddm.runner import train
from ddm.runner.processes import join_processes

options = tiny.make_options(
    sys.argv[1], seeds=11, sweep=("explode_at=-1,6",), **eval(sys.argv[2])
)
join_processes(options.coordinator_address, options.num_processes, options.process_id)
dataset = tiny.make_dataset()
warnings.filterwarnings("error", category=DeprecationWarning, module="ddm")
result = train(linear_regression, linear_regression.Config(), dataset, tiny.Target(), options)
print("devices:", jax.local_device_count(), result.summary["device_count"])
"""


def start(folder, fake_devices=1, **options):
    environment = {
        **os.environ,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")
        + f" --xla_force_host_platform_device_count={fake_devices}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", TRAIN, str(folder), repr(options)]
    return subprocess.Popen(
        command,
        cwd=HERE,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(*processes):
    """Their outputs; all must have ended well."""
    results = [process.communicate(timeout=300) for process in processes]
    codes = [process.returncode for process in processes]
    assert not any(codes), "\n".join(errors for _, errors in results)
    return [output for output, _ in results]


@pytest.fixture(scope="module")
def expected(run, tmp_path_factory):
    """The metrics of all lanes on one device, in one process."""
    folder = tmp_path_factory.mktemp("one")
    run(folder, seeds=11, sweep=("explode_at=-1,6",), environment=tiny.Target())
    return read_values(folder)


def read_values(folder):
    """(step, lane, metric) -> value."""
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    return {(int(step), *label): float(value) for step, *label, value in rows}


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """Two thirds of the run on eight devices; 22 lanes leave places to be padded."""
    folder = tmp_path_factory.mktemp("eight")
    outputs = finish(start(folder, fake_devices=8, num_updates=8))
    assert "devices: 8 8" in outputs[0]
    return folder


def test_eight_devices_equal_one(eight, expected):
    values = read_values(eight)
    assert values == pytest.approx({k: v for k, v in expected.items() if k[0] <= 8}, rel=1e-6)


def test_two_processes_go_on_as_one_would(eight, expected, tmp_path):
    folder = shutil.copytree(eight, tmp_path / "two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    options = {"coordinator_address": address, "num_processes": 2, "resume": True}
    outputs = finish(*(start(folder, fake_devices=2, process_id=i, **options) for i in range(2)))
    assert all("devices: 2 4" in output for output in outputs)
    assert read_values(folder) == pytest.approx(expected, rel=1e-6)
    failed = json.loads((folder / "summary.json").read_text())["failed"]
    assert set(failed) == {f"seed {seed} explode_at=6" for seed in range(11)}


@pytest.mark.parametrize("mode", ["vmap", "sequential"])
@pytest.mark.parametrize("lanes", [1, 3])
def test_modes_map_over_the_leading_axis(mode, lanes):
    layout = Layout.create(lanes)
    keys = jax.random.split(jax.random.key(0), lanes)
    function = map_lanes(_add, mode, layout.devices)
    scale, state = np.arange(1.0, lanes + 1), np.full((lanes, 2), 10.0)
    state, total = function(*layout.place((scale, state, keys)), layout.replicate(np.ones(4)))
    np.testing.assert_array_equal(layout.gather(total), scale * 4)
    np.testing.assert_array_equal(layout.gather(state), 10.0 + scale[:, None] * [4, 4])


def _add(config, state, key, dataset):
    total = config * dataset.sum()
    return state + total, total


def test_padding_repeats_the_last_lane():
    devices = tuple(f"device {i}" for i in range(2))
    first = Layout(5, devices, per_device=2, process_count=2, process_index=0)
    second = Layout(5, devices, per_device=2, process_count=2, process_index=1)
    assert (first.indices.tolist(), first.num_local) == ([0, 1, 2, 3], 4)
    assert (second.indices.tolist(), second.num_local) == ([4, 4, 4, 4], 1)


def test_no_device_stays_without_a_lane():
    layout = Layout.create(1)
    assert (len(layout.devices), layout.per_device) == (1, 1)


def test_keys_survive_the_way_to_numpy_and_back():
    tree = {"key": jax.random.split(jax.random.key(3), 2), "x": np.arange(2)}
    raw = unwrap_keys(tree)
    assert raw["key"].dtype == np.uint32
    again = wrap_keys(jax.tree.map(np.array, raw), tree)
    assert jax.random.uniform(again["key"][1]) == jax.random.uniform(tree["key"][1])


def test_more_devices_than_there_are():
    with pytest.raises(InputError, match=r"--devices=99, but this machine has"):
        Layout.create(4, devices=99)
