"""CSV files and data frames."""

from __future__ import annotations

import numpy as np
import pytest

from ddm import data
from ddm.errors import InputError

# Two episodes: three steps to a terminal state that is not logged, two steps that were cut.
ROWS = """episode,step,observation_0,observation_1,action_0,reward,termination
a,0,0,10,0.1,1,false
a,1,1,11,0.2,2,false
a,2,2,12,0.3,3,true
b,0,5,15,0.4,4,false
b,1,6,16,0.5,5,false
"""
FINAL = "b,2,7,17,,,\n"  # the state after the last action


class Frame:
    """What a pandas DataFrame is to the reader."""

    def __init__(self, **columns):
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, column):
        return self._columns[column]


def load(folder, text, **options):
    path = folder / "log.csv"
    path.write_text(text)
    return data.load(path, **options)


def test_a_cut_episode_without_its_last_state_loses_a_transition(tmp_path):
    log = load(tmp_path, ROWS)
    assert log.info.name == str(tmp_path / "log.csv")
    assert log.episode_lengths.tolist() == [3, 1]
    assert log.episode_returns.tolist() == [6, 9]
    assert log.terminations.tolist() == [False, False, True, False]
    assert log.observations.tolist() == [[0, 10], [1, 11], [2, 12], [2, 12], [5, 15], [6, 16]]


def test_a_last_row_with_a_state_only_keeps_every_transition(tmp_path):
    log = load(tmp_path, ROWS + FINAL)
    assert log.episode_lengths.tolist() == [3, 2]
    assert log.episode_returns.tolist() == [6, 9]
    assert log.truncations.tolist() == [False, False, False, False, True]
    assert log.observations[-1].tolist() == [7, 17]
    np.testing.assert_allclose(log.actions[:, 0], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)


def test_whole_numbers_are_discrete_actions(tmp_path):
    rows = "episode,observation,action,reward,termination,truncation\n"
    log = load(tmp_path, rows + "0,0.5,2,1,0,0\n0,0.6,0,1,0,0\n0,0.7,,,1,\n")
    assert log.actions.tolist() == [2, 0]
    assert log.actions.dtype == np.int32
    assert log.terminations.tolist() == [False, True]
    np.testing.assert_allclose(log.observations[:, 0], [0.5, 0.6, 0.7], rtol=1e-6)


def test_without_episodes_flags_end_them(tmp_path):
    rows = "observations_0,actions_0,rewards,terminals,timeouts\n"
    log = load(tmp_path, rows + "1,0,1,0,0\n2,0,1,1,0\n3,0,1,0,0\n4,0,1,0,1\n")
    assert log.episode_lengths.tolist() == [2, 1]
    assert log.info.dropped_transitions == 1


def test_a_data_frame_is_read_like_its_csv(tmp_path):
    columns = {
        "Unnamed: 0": np.arange(6),
        "episode": np.array(["a"] * 3 + ["b"] * 3, object),
        "observation_0": np.array([0, 1, 2, 5, 6, 7]),
        "observation_1": np.array([10.0, 11, 12, 15, 16, 17]),
        "action_0": np.array([0.1, 0.2, 0.3, 0.4, 0.5, np.nan]),
        "reward": np.array([1, 2, 3, 4, 5, None], object),
        "termination": np.array([False, False, True, False, False, None], object),
    }
    frame, file = data.load(Frame(**columns)), load(tmp_path, ROWS + FINAL)
    assert frame.info.name == "DataFrame"
    for field in ("observations", "actions", "rewards", "terminations", "truncations"):
        np.testing.assert_array_equal(getattr(frame, field), getattr(file, field))
    columns["reward"] = np.array(["one"] * 6, object)
    with pytest.raises(InputError, match="mine: column reward has dtype object, expected numbers"):
        data.load(Frame(**columns), name="mine")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("0.4", "much", r"log.csv: column action_0, line 5 is 'much', expected a number"),
        ("b,0,5,", "b,0,", r"log.csv: line 5 has 6 cells, expected 7"),
        ("b,1", "b,3", r"log.csv: step is 3 at line 6 after 0, expected steps that count up"),
        ("b,", "a,", r"log.csv: step is 0 at line 5 after 2"),
        ("a,2", "c,0", r"log.csv: the episode .* line 3 lacks a last row"),
        ("a,1,1,11,0.2,2", "a,1,1,11,,", r"log.csv: line 3 has no action, which only the last"),
        ("a,0,0,10,0.1,1,false", "a,0,0,10,0.1,1,true", r"terminations is set at line 2, before"),
        (FINAL, "b,2,7,17,,9,\n", r"log.csv: line 7 has a reward and no action"),
        (FINAL, "b,2,7,17,,,\na,3,0,0,0,0,true\n", r"episode a comes back at line 8: sort the"),
        ("reward", "price", r"log.csv: column price is unknown: leave it out, or call it episode"),
        ("observation_1", "observation_2", r"observations are numbered 0, 2, expected 0 to 1"),
        ("observation_1", "observation_0", r"column observation_0 is there twice"),
        ("observation_1", "observations_0", r"observations_0 is there under another name, too"),
        ("episode", "", r"column step needs a column episode beside it"),
        ("action_0", "rewards", r"column .* is there under another name, too"),
        (ROWS[ROWS.index("\n") :] + FINAL, "\n", r"log.csv has no rows"),
    ],
)
def test_mistakes_are_named_with_column_and_line(tmp_path, before, after, message):
    assert before in ROWS + FINAL
    with pytest.raises(InputError, match=message):
        load(tmp_path, (ROWS + FINAL).replace(before, after))
