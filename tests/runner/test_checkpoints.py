from __future__ import annotations

import errno
import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import linear_regression
import numpy as np
import pytest
import tiny

from ddm.errors import InputError
from ddm.runner import load_policy
from ddm.runner.checkpoints import Store
from ddm.runner.lanes import unwrap_keys


def absolute(error):  # called like a loss that the algorithm knows, and another one
    return 2.0 * jnp.abs(error)


def halved(observation):
    return 0.5 * observation


def assert_same_state(first, second):
    first, second = jax.device_get(unwrap_keys((first.policy.state, second.policy.state)))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def digests(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OPTIONS = {"seeds": 2, "sweep": ("learning_rate=0.1,0.5",)}


@pytest.fixture(scope="module")
def uninterrupted(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, run(folder, environment=tiny.Target(), **OPTIONS)


@pytest.fixture(scope="module")
def half(run, tmp_path_factory):
    """The same run, but only the first eight gradient steps of it."""
    folder = tmp_path_factory.mktemp("half")
    run(folder, environment=tiny.Target(), num_updates=8, **OPTIONS)
    return folder


@pytest.fixture
def half_copy(half, tmp_path):
    return Path(shutil.copytree(half, tmp_path / "run"))


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(run, uninterrupted, half_copy):
    folder, expected = uninterrupted
    # Rows that were written after the last checkpoint must not appear twice.
    with (half_copy / "metrics.csv").open("a") as file:
        file.write("12,0,0.1,loss,0.5\n12,1,0.1,lo")
    resumed = run(half_copy, environment=tiny.Target(), resume=True, **OPTIONS)
    assert_same_state(resumed, expected)
    assert (half_copy / "metrics.csv").read_text() == (folder / "metrics.csv").read_text()
    assert resumed.summary["score"] == expected.summary["score"]


def test_a_resumed_single_lane_is_the_uninterrupted_one(run, tmp_path):
    expected = run(tmp_path / "whole")
    run(tmp_path / "half", num_updates=4)
    assert_same_state(run(tmp_path / "half", resume=True), expected)


def test_resuming_a_finished_run_changes_nothing(run, uninterrupted, tmp_path):
    folder, expected = uninterrupted
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    again = run(copy, environment=tiny.Target(), resume=True, **OPTIONS)
    assert_same_state(again, expected)
    assert again.summary["score"] == expected.summary["score"]


SCRIPT = """
import os, signal, sys
import linear_regression, tiny
from ddm.runner import progress, train

update = progress.Progress.update
def update_and_be_killed(self, step):
    update(self, step)
    if step == 8 and "kill" in sys.argv:
        os.kill(os.getpid(), signal.SIGTERM)
progress.Progress.update = update_and_be_killed
options = tiny.make_options(sys.argv[1], seeds=2, checkpoint_every=0, progress="plain",
                            resume="resume" in sys.argv)
train(linear_regression, linear_regression.Config(), tiny.make_dataset(), None, options)
"""


def test_sigterm_saves_and_the_run_goes_on_from_there(run, tmp_path):
    expected = run(tmp_path / "whole", seeds=2)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "killed")]
    here = str(Path(__file__).parent)

    def call(*arguments):
        return subprocess.run(
            [*command, *arguments], cwd=here, capture_output=True, text=True, check=False
        )

    killed = call("kill")
    assert killed.returncode == 128 + signal.SIGTERM, killed.stderr
    assert "stopped after gradient step 8; --resume goes on" in killed.stderr
    assert not (tmp_path / "killed" / "summary.json").exists()
    resumed = call("resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "going on after gradient step 8" in resumed.stderr
    policy = load_policy(tmp_path / "killed", linear_regression, lane=None)
    np.testing.assert_array_equal(policy.state.weights, expected.policy.state.weights)
    whole, killed_rows = (
        (tmp_path / name / "metrics.csv").read_text() for name in ("whole", "killed")
    )
    assert whole == killed_rows


def test_only_the_newest_checkpoints_are_kept(run, tmp_path):
    run(tmp_path, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["12", "8"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 16}, "was run with batch_size=8, not 16"),
        ({"config": linear_regression.Config(noise=0.5)}, "was run with noise=0.01, not 0.5"),
        ({"seeds": 3}, "was run with seeds=2, not 3"),
        ({"num_updates": 4}, "was run with num_updates=8; it can become longer, not 4"),
    ],
)
def test_resume_with_another_configuration_is_refused(run, half, changed, message):
    with pytest.raises(InputError, match=message):
        run(half, resume=True, **{**OPTIONS, **changed})


def test_what_only_concerns_watching_and_storing_may_change_on_resume(run, half_copy):
    changed = {
        "keep": 1,
        "eval_every": 0,
        "log_every": 2,
        "progress": "none",
        "checkpoint_every": 2,
    }
    assert run(half_copy, resume=True, **OPTIONS, **changed).summary["gradient_steps"] == 12


def test_resume_needs_a_run(run, tmp_path):
    with pytest.raises(InputError, match="does not exist, so there is nothing to resume"):
        run(tmp_path / "nowhere", resume=True)
    with pytest.raises(InputError, match="--resume needs --run_dir"):
        run("", resume=True)


def damage(checkpoint):
    """Cuts the largest file of a checkpoint in half."""
    path = max(checkpoint.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else -1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_damaged_checkpoint_falls_back_to_the_one_before(run, uninterrupted, half_copy, capsys):
    damage(half_copy / "checkpoints" / "8")
    resumed = run(half_copy, resume=True, progress="plain", **OPTIONS)
    notices = capsys.readouterr().err
    assert "checkpoints/8 cannot be read" in notices
    assert "it is now 8.damaged, and an older checkpoint is used" in notices
    assert "going on after gradient step 4" in notices
    assert_same_state(resumed, uninterrupted[1])


def test_without_a_readable_checkpoint_the_error_names_it(run, half_copy):
    for step in ("4", "8"):
        damage(half_copy / "checkpoints" / step)
    with pytest.raises(
        InputError, match=r"checkpoints/8 cannot be read .*no older checkpoint"
    ) as error:
        run(half_copy, resume=True, **OPTIONS)
    assert "\n" not in str(error.value)


def test_a_half_written_checkpoint_is_ignored(run, uninterrupted, half_copy):
    # What orbax leaves behind when the process is killed while saving.
    shutil.copytree(
        half_copy / "checkpoints" / "8", half_copy / "checkpoints" / "12.orbax-checkpoint-tmp-1"
    )
    assert_same_state(run(half_copy, resume=True, **OPTIONS), uninterrupted[1])


def test_other_bytes_than_those_written_are_noticed(tmp_path, monkeypatch):
    store = Store(tmp_path)
    tree = {"x": np.arange(3.0)}
    store.save(1, tree, {})
    monkeypatch.setattr("ddm.runner.checkpoints.digest", lambda tree: "another")
    with pytest.raises(InputError, match="does not hold the arrays that were written"):
        store.restore(1, tree)
    store.close()


def test_types_survive(tmp_path):
    store = Store(tmp_path)
    tree = {"a": (np.arange(2, dtype=np.int32), np.asarray(True)), "b": np.float16(0.5)[None]}
    store.save(3, tree, {"note": [1, None]})
    step, (restored, _), notices = store.restore_newest(tree)
    assert (step, notices, store.header(3)["note"]) == (3, [], [1, None])
    assert jax.tree.structure(restored) == jax.tree.structure(tree)
    for before, after in zip(jax.tree.leaves(tree), jax.tree.leaves(restored), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    store.close()


@pytest.mark.parametrize("target", ["ddm.runner.metrics.MetricsWriter.write", "orbax"])
def test_a_full_disk_is_one_sentence_and_earlier_files_stay(run, half_copy, monkeypatch, target):
    def write(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = digests(half_copy / "checkpoints" / "8")
    if target == "orbax":
        from orbax import checkpoint as ocp

        target = "orbax.checkpoint.CheckpointManager.save"
        assert ocp.CheckpointManager.save
    monkeypatch.setattr(target, write)
    with pytest.raises(InputError, match="no space left on the device; free some") as error:
        run(half_copy, resume=True, **OPTIONS)
    assert str(half_copy) in str(error.value)
    assert "\n" not in str(error.value)
    assert digests(half_copy / "checkpoints" / "8") == before
    monkeypatch.undo()
    assert run(half_copy, resume=True, **OPTIONS).summary["gradient_steps"] == 12


def test_threads_of_a_library_say_nothing_beside_our_sentence(tmp_path, monkeypatch, capfd):
    from orbax import checkpoint as ocp

    def save(*args, **kwargs):
        def fail():
            raise OSError(errno.ENOSPC, "a page of a thread")

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        for name in ("absl", "asyncio"):
            logging.getLogger(name).error("a page of %s", name)
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device [source locations=...]")

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    store = Store(tmp_path)
    with pytest.raises(InputError, match="checkpoints/1: no space left on the device"):
        store.save(1, {"x": np.zeros(1)}, {})
    store.close()
    assert capfd.readouterr().err == ""
    assert logging.getLogger("asyncio").isEnabledFor(logging.ERROR)


def test_the_policy_of_a_run_is_read_back_without_its_dataset(uninterrupted):
    folder, result = uninterrupted
    observation = np.asarray([0.3, -0.2], np.float32)
    key = jax.random.key(0)
    action, _ = load_policy(folder, linear_regression, lane=3)(observation, key)
    expected = np.clip(observation @ np.asarray(result.policy.state.weights[3]), -1, 1)
    np.testing.assert_allclose(action, expected, rtol=1e-6)
    everything = load_policy(folder, linear_regression, lane=None)
    np.testing.assert_array_equal(everything.config.learning_rate, np.float32([0.1, 0.1, 0.5, 0.5]))
    with pytest.raises(InputError, match="has lanes 0 to 3, not 4"):
        load_policy(folder, linear_regression, lane=4)
    with pytest.raises(InputError, match="has no checkpoint of step 5"):
        load_policy(folder, linear_regression, step=5)
    with pytest.raises(InputError, match="is a run of linear_regression, not of json"):
        load_policy(folder, json)


@pytest.mark.parametrize(("field", "function"), [("loss", absolute), ("scale", halved)])
def test_functions_of_a_configuration_are_not_forgotten(run, tmp_path, field, function):
    config = linear_regression.Config(**{field: function})
    trained = run(tmp_path, config=config).policy
    with pytest.raises(InputError, match=rf"run with a {field} of its own, .*config=\.\.\."):
        load_policy(tmp_path, linear_regression)
    with pytest.raises(InputError, match=r"was run with noise=0\.01, not 0\.5"):
        load_policy(tmp_path, linear_regression, config=config.replace(noise=0.5))
    policy = load_policy(tmp_path, linear_regression, config=config)
    key = jax.random.key(0)
    observation = np.asarray([0.3, -0.2], np.float32)
    np.testing.assert_array_equal(policy(observation, key)[0], trained(observation, key)[0])


def test_choices_and_functions_that_are_the_default_are_in_the_file(run, tmp_path):
    config = linear_regression.Config(loss="absolute")
    run(tmp_path, config=config)
    assert load_policy(tmp_path, linear_regression).config.loss == "absolute"
