"""The table of the model-based methods: its commands, its settings, and its columns."""

from __future__ import annotations

import pathlib

import pytest
import scripts

from ddm.errors import InputError

SCRIPT = pathlib.Path(__file__).parents[2] / "experiments" / "tables" / "model_based.py"


@pytest.fixture(scope="module")
def table():
    """The command's module, with its flags at their defaults but for the sizes."""
    with scripts.imported(SCRIPT) as module:
        from absl import flags

        flags.FLAGS(["model_based", "--updates=10", "--rollouts=20", "--epochs=3", "--seeds=2"])
        yield module


def test_every_log_has_settings_and_published_scores(table):
    assert len(table.LOGS) == 12
    for settings in (table.HORIZONS, table.PENALTIES, table.SPREADS, *table.PUBLISHED.values()):
        assert len(settings) == 12
    at = table.LOGS.index("zoo/hopper/medium-replay-v0")
    assert (table.HORIZONS[at], table.PENALTIES[at], table.SPREADS[at]) == (5, 1.0, 0.1)
    published = {name: scores[at] for name, scores in table.PUBLISHED.items()}
    assert (published["bc_v0"], published["mopo_v0"], published["mbpo_v0"]) == (11.8, 92.5, 49.8)
    assert (published["combo_v2"], published["mobile_v2"]) == (90.1, 105.1)


def test_methods_share_the_model_of_a_log_and_seed(table, tmp_path):
    logs = ["zoo/hopper/random-v0", "zoo/walker2d/medium-expert-v0"]
    jobs = list(table.jobs(logs, ["bc", "mopo", "mbpo"], 2, tmp_path))
    assert [job[1] for job in jobs] == 4 * ["dynamics", "bc", "mopo", "mbpo"]
    assert [job[2] for job in jobs] == 8 * [0] + 8 * [1]
    models = {(log, seed): command for log, method, seed, command in jobs if method == "dynamics"}
    for log, method, seed, command in jobs:
        assert f"--seeds=1 --seed={seed}" in command
        if method in ("mopo", "mbpo"):
            folder = tmp_path / table.folder_name(log, f"dynamics-{seed}", models[log, seed])
            assert f"--num_updates=10 --seeds=1 --seed={seed} --start_from={folder} " in command
    assert jobs[2][3].endswith("--num_rollouts=20 --rollout_length=5 --penalty=1.0")
    assert jobs[3][3].endswith("--num_rollouts=20 --rollout_length=5")
    assert jobs[6][3].endswith("--num_rollouts=20 --rollout_length=1 --penalty=2.0")
    assert [job[1] for job in table.jobs(logs[:1], ["bc"], 1, tmp_path)] == ["bc"]


@pytest.mark.parametrize(
    ("logs", "methods", "named"),
    [(["zoo/ant/random-v0"], ["bc"], "zoo/ant/random-v0"), ([], ["dreamer"], "dreamer")],
)
def test_unknown_logs_and_methods_are_refused(table, tmp_path, logs, methods, named):
    with pytest.raises(InputError, match=f"{named} is not in the table"):
        next(table.jobs(logs, methods, 1, tmp_path))


def test_the_table_has_means_seeds_and_published_columns(table):
    rows = [
        {"log": "zoo/hopper/random-v0", "method": "mopo", "seed": 0, "last": 7.0},
        {"log": "zoo/hopper/random-v0", "method": "mopo", "seed": 1, "last": 9.5},
        {"log": "zoo/halfcheetah/random-v0", "method": "bc", "seed": 0, "last": 2.0},
    ]
    cheetah, hopper = table.table_of(rows)
    assert (cheetah["task"], cheetah["data"]) == ("halfcheetah", "random")
    assert (cheetah["bc"], cheetah["bc_seeds"], cheetah["mopo"]) == (2.0, 1, None)
    assert (hopper["mopo"], hopper["mopo_seeds"], hopper["bc_seeds"]) == (8.2, 2, 0)
    assert (hopper["d4rl_mopo_v0"], hopper["d4rl_mbpo_v0"]) == (13.3, 4.5)
