"""Damaged and hostile data files: a sentence with the file's name, or the content of the whole one.

The long form, with all damages and many seeds, is `benchmarks/damaged_inputs.py`.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import zipfile

import gymnasium
import h5py
import numpy as np
import pytest

from ddm import data
from ddm.errors import InputError
from ddm.types import Box, Discrete

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
import damages

DRAWN, SEEDS = 40, 8  # damages of each format, and seeds of each kind of damage by chance
FORMATS = {form.name: form for form in damages.formats()}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DDM_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_ends_in_a_sentence_or_in_its_whole_content(name, tmp_path):
    form, bench = FORMATS[name], damages.Bench(FORMATS[name], tmp_path)
    rng = np.random.default_rng(0)
    drawn = rng.permutation(len(form.damages))[:DRAWN]
    outcomes = [bench.try_out(form.damages[i], rng) for i in drawn]
    for kind in damages.CHANCE:
        outcomes += [bench.chance(kind, np.random.default_rng(seed)) for seed in range(SEEDS)]
    assert [outcome for outcome in outcomes if outcome.verdict != "good"] == []


# Those of the kinds of faults that once went through, each with its sentence.
NAMED = {
    ("saved npz", "header notes = 'text'"): "the header: notes is 'text', expected a list of texts",
    ("saved npz", "normalization_observation_mean: nan"): "observation_mean is not finite",
    ("saved npz", "raw_returns: one more row"): r"raw_returns has shape \(4,\), expected \(3,\)",
    ("saved npz", "episode_starts[-1] 99"): "actions has 7 rows, expected 99",
    ("saved npz", "recorded_lengths 99"): "recorded_lengths are not the lengths of the 3 episodes",
    ("plain npz", "rewards declared (5000000000,), stored"): (
        "rewards declares 40000000000 bytes and the file holds 40 of them"
    ),
    ("plain npz", "rewards declared |O"): "array rewards holds Python objects, expected plain",
    ("plain npz", "a header of 4 GB"): "header of 4294967295 bytes, expected at most 10000",
    ("plain npz", "a zip bomb"): "declares 4294967296 bytes and the file holds 67108864",
    ("plain npz", "complex bounds"): "bounds of dtype complex128, expected real numbers",
    ("plain npz", "2^33 actions"): "has the 8589934592 integers from 0, .* such as 32 bits hold",
    ("plain npz", "low equal to high"): "action_low is not below action_high",
    ("plain npz", "equal references"): "reference scores are .3. 3.., expected .* not equal",
    ("D4RL", "rewards: external link"): "rewards is a link to another file, which is not followed",
    ("D4RL", "rewards: link to an external group"): "elsewhere is a link to another file",
    ("D4RL", "rewards: external storage"): "rewards has its content in another file",
    ("D4RL", "rewards: virtual dataset"): "rewards has its content in another file",
    ("D4RL", "rewards: links in a circle"): "is a link that leads back to itself",
    ("D4RL", "rewards: dangling link"): "rewards is a link to /nothing, which is missing",
    ("D4RL", "rewards: 5e9 numbers"): "rewards declares 40000000000 bytes and the file holds",
    ("Minari", "total_episodes = 2"): "holds 3 episodes, its metadata.json says 2",
    ("Minari", "total_steps = 7"): "holds 6 steps, its metadata.json says 7",
    ("Minari", "scores both 3.0"): r"reference scores are \(3.0, 3.0\), expected",
    ("Minari", "2147483648 actions"): "has the 2147483648 integers from 0",
    ("CSV", "column 5 = '1_5'"): "column reward, line 3 is '1_5', expected a number",
    ("CSV", "a dangling link"): "log.csv is a link to .*, which leads to no file",
    ("CSV", "a link to itself"): "log.csv cannot be read .*, expected",
    ("CSV", "a long name"): r"cannot be read \(File name too long\)",
    ("CSV", "a pipe"): "log.csv is no file",
}


@pytest.mark.parametrize(("name", "what"), NAMED)
def test_what_is_wrong_is_named(name, what, tmp_path):
    damage = next(damage for damage in FORMATS[name].damages if damage.what == what)
    path = FORMATS[name].write(tmp_path)
    path = damage.apply(path, np.random.default_rng(0)) or path
    with pytest.raises(InputError, match=NAMED[name, what]) as caught:
        data.load(path)
    assert "allow_pickle" not in str(caught.value)


@pytest.mark.parametrize("what", ["external link", "external storage", "virtual dataset"])
@pytest.mark.parametrize("name", ["D4RL", "Minari"])
def test_parts_in_other_files_are_read_where_they_are_asked_for(name, what, tmp_path):
    target = {"D4RL": "rewards", "Minari": "episode_0/rewards"}[name]
    damage = next(d for d in FORMATS[name].damages if d.what == f"{target}: {what}")
    path = FORMATS[name].write(tmp_path)
    damage.apply(path, np.random.default_rng(0))
    if (name, what) == ("Minari", "external link"):  # of five rewards, and the episode has three
        with pytest.raises(InputError, match=r"has shape \(3,.*, expected \(5,"):
            data.load(path, external_links=True)
        return
    found = np.asarray(data.load(path, external_links=True).rewards)[:3]
    expected = np.zeros(3) if what == "external storage" else np.arange(3.0)
    assert found.tolist() == expected.tolist()


def test_links_inside_a_file_are_followed(tmp_path):
    path = FORMATS["D4RL"].write(tmp_path)
    with h5py.File(path, "r+") as file:
        file.move("rewards", "infos/kept")
        file["rewards"] = h5py.SoftLink("infos/kept")
    np.testing.assert_allclose(data.load(path).rewards, damages.plain()["rewards"][:4], rtol=1e-6)


def test_only_the_arrays_that_are_used_are_read(tmp_path):
    for name in ("saved npz", "plain npz"):
        path = FORMATS[name].write(tmp_path)
        before = data.load(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("infos/picture.npy", b"no array at all")
        assert damages.same(data.load(path), before)


def test_spaces_of_a_saved_dataset_are_not_ignored(tmp_path):
    path = FORMATS["saved npz"].write(tmp_path)
    before = data.load(path)
    box = ([-2.0, -2.0], [2.0, 3.0])
    assert damages.same(data.load(path, action_space=box, clip_actions=True), before)
    for space in ((-2.0, 2.0), Discrete(3), Box((1,), (-2.0,), (2.0,))):
        with pytest.raises(InputError, match=r"saved.npz was saved with its actions mapped by"):
            data.load(path, action_space=space)
    with pytest.raises(InputError, match=r"observation_space is for plain arrays"):
        data.load(path, observation_space=Discrete(3))


def test_whole_numbers_stored_as_floats_are_read_and_others_refused(tmp_path):
    path = FORMATS["Minari"].write(tmp_path)
    space = json.dumps({"type": "Discrete", "n": 3, "start": 0})
    damages.edit_metadata(damages.put("action_space", value=space))(path, None)
    with h5py.File(damages.main_file(path), "r+") as file:
        for episode, actions in enumerate(([0.0, 1, 2], [1.0], [2.0, 0])):
            del file[f"episode_{episode}/actions"]
            file[f"episode_{episode}/actions"] = np.array(actions)
    assert data.load(path).actions.tolist() == [0, 1, 2, 1, 2, 0]
    with h5py.File(damages.main_file(path), "r+") as file:
        file["episode_2/actions"][1] = 0.5
    with pytest.raises(InputError, match=r"episode_2/actions has dtype float64, expected whole"):
        data.load(path)


def dict_episodes():
    return [
        {
            "observations": {"b": np.array([[1.0], [2.0]]), "a": np.array([[3.0], [4.0]])},
            "actions": [0],
            "rewards": [1.0],
            "terminations": True,
        }
    ]


def test_a_combined_set_keeps_the_order_of_the_environments_keys():
    import minari

    box = gymnasium.spaces.Box(-9, 9, (1,))
    space = gymnasium.spaces.Dict([("b", box), ("a", box)])
    options = {"observation_space": space, "action_space": gymnasium.spaces.Discrete(2)}
    for name in ("test/one-v0", "test/two-v0"):
        data.write_minari(name, dict_episodes(), **options)
    sets = [minari.load_dataset(name) for name in ("test/one-v0", "test/two-v0")]
    minari.combine_datasets(sets, "test/both-v0")
    one, both = data.load("test/one-v0"), data.load("test/both-v0")
    assert one.observations.tolist() == [[1, 3], [2, 4]]
    assert both.observations.tolist() == [[1, 3], [2, 4], [1, 3], [2, 4]]
    assert "the order of the observations' keys is that of test/one-v0" in both.info.notes
    for name in ("test/one-v0", "test/two-v0"):
        minari.delete_dataset(name)
    alone = data.load("test/both-v0")
    assert alone.observations.tolist() == [[3, 1], [4, 2], [3, 1], [4, 2]]
    assert "none of test/one-v0, test/two-v0 is on this machine" in alone.info.notes[0]


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda folder: folder / ("a" * 300 + ".npz"), "File name too long"),
        (lambda folder: folder / "a\0.npz", "embedded null"),
        (lambda folder: folder / "file" / "a.npz", "Not a directory"),
        (lambda folder: "~nobody-of-this-name/a.npz", "home directory"),
    ],
)
def test_what_cannot_be_saved_is_said(make, fault, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"cannot be written: .*{fault}"):
        data.save_npz(damages.whole(), make(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_minari_sets_that_cannot_be_written_are_said(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be written: File name too long"):
        data.write_minari(f"{'a' * 300}-v0", damages.whole())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file" / "sets"))
    with pytest.raises(InputError, match="cannot be written: Not a directory"):
        data.write_minari("test/x-v0", damages.whole())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_said(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written: Permission denied"):
            data.save_npz(damages.whole(), tmp_path / "a.npz")
    finally:
        tmp_path.chmod(0o700)
