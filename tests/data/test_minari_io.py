"""Minari round trips, and damaged files that are refused by name."""

from __future__ import annotations

import collections
import json

import gymnasium
import h5py
import jax
import numpy as np
import pytest

from ddm import data
from ddm.data import minari_finding
from ddm.errors import InputError

ID = "test/tiny-v0"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DDM_CACHE", str(tmp_path / "cache"))


def episodes(lengths=(3, 1, 2)):
    rng = np.random.default_rng(0)
    return [
        {
            "observations": rng.normal(size=(steps + 1, 2)),
            "actions": rng.uniform(-1.9, 1.9, (steps, 1)),
            "rewards": rng.normal(size=steps),
            "terminations": e == 0,
        }
        for e, steps in enumerate(lengths)
    ]


def write(**changes):
    options = {"action_space": ([-2.0], [2.0]), "environment_id": "Pendulum-v1"}
    return data.write_minari(ID, episodes(), **(options | changes))


def hdf5(mode="r+"):
    return h5py.File(minari_finding.datasets_root() / ID / "data" / "main_data.hdf5", mode)


def change_metadata(**changes):
    path = minari_finding.datasets_root() / ID / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_equal(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        # Rewards are summed from float64 on one side and from the file's float32 on the other.
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_round_trip():
    folder = write(reference_scores=(-10.0, 90.0))
    expected = data.from_episodes(episodes(), action_space=([-2.0], [2.0]))
    for source in (ID, folder, folder / "data", str(folder / "data" / "main_data.hdf5")):
        dataset = data.load(source)
        assert_equal(dataset, expected)
    assert dataset.info.name == ID
    assert dataset.info.environment_id == "Pendulum-v1"
    assert dataset.info.reference_scores == (-10.0, 90.0)
    assert dataset.info.data_cuts == 0  # the writer says that episodes 1 and 2 were truncated
    assert data.load(ID, environment_id="Other-v0").info.environment_id == "Other-v0"


def test_minari_reads_what_we_write():
    import minari

    write()
    dataset = minari.load_dataset(ID)
    assert (dataset.total_episodes, dataset.total_steps) == (3, 6)
    # The short name means the pure environment, as in `evaluation.make_environment`.
    assert dataset.spec.env_spec.id == "ddm/Pendulum-v1"
    np.testing.assert_allclose(dataset[0].observations, episodes()[0]["observations"], rtol=1e-6)
    assert ID in minari.list_local_datasets()


def test_a_dataset_is_written_in_the_environments_units():
    write()
    dataset = data.load(ID)
    transformed = data.normalize(dataset, "standardize", "times_100")
    data.write_minari("test/again-v0", transformed)
    again = data.load("test/again-v0")
    for name in ("observations", "actions", "rewards", "returns_to_go"):
        np.testing.assert_allclose(
            getattr(again, name), getattr(dataset, name), rtol=1e-4, atol=1e-5
        )
    assert again.info.action_space == dataset.info.action_space
    assert again.info.environment_id == "Pendulum-v1"


def test_dict_observations_and_integer_actions():
    space = gymnasium.spaces.Dict(
        {"b": gymnasium.spaces.Discrete(3), "a": gymnasium.spaces.Box(-1, 1, (2,))}
    )
    observations = {"a": np.array([[0.1, 0.2], [0.3, 0.4]]), "b": np.array([2, 0])}
    given = {"observations": observations, "actions": [6], "rewards": [1.0], "terminations": True}
    actions = gymnasium.spaces.Discrete(2, start=5)
    data.write_minari(ID, [given], observation_space=space, action_space=actions)
    dataset = data.load(ID)
    expected = [
        gymnasium.spaces.flatten(space, {key: observations[key][i] for key in observations})
        for i in range(2)
    ]
    np.testing.assert_allclose(dataset.observations, expected)
    assert dataset.actions.tolist() == [1]
    assert dataset.normalization.denormalize_actions(dataset.actions).tolist() == [6]
    data.write_minari("test/again-v0", dataset)
    again = data.load("test/again-v0")
    assert again.normalization.denormalize_actions(again.actions).tolist() == [6]


def test_existing_id_is_refused_unless_overwritten():
    write()
    with pytest.raises(InputError, match=r"test/tiny-v0 exists .* use overwrite"):
        write()
    data.write_minari(ID, episodes((2,)), action_space=([-2.0], [2.0]), overwrite=True)
    assert data.load(ID).num_transitions == 2


def test_nothing_is_left_of_a_failed_write(monkeypatch):
    import minari

    write()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(minari, "create_dataset_from_buffers", fail)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        write(overwrite=True)
    assert data.load(ID).num_transitions == 6
    assert not list(minari_finding.datasets_root().glob(".writing-*"))


def test_bad_ids_and_bad_episodes_are_not_written():
    with pytest.raises(InputError, match="no Minari id"):
        data.write_minari("no version", episodes())
    with pytest.raises(InputError, match="minari does not take the id x/tiny-v0"):
        data.write_minari("x/tiny-v0", episodes(), action_space=([-2.0], [2.0]))
    with pytest.raises(InputError, match="outside the box"):
        data.write_minari(ID, episodes())
    assert not (minari_finding.datasets_root() / ID).exists()


def delete(name):
    def damage():
        with hdf5() as file:
            del file[name]

    return damage


def replace(name, array):
    def damage():
        with hdf5() as file:
            del file[name]
            file[name] = array

    return damage


def truncate_file():
    path = minari_finding.datasets_root() / ID / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (delete("episode_1"), "main_data.hdf5: episode_1 is missing"),
        (delete("episode_2/actions"), "main_data.hdf5: episode_2/actions is missing"),
        (
            replace("episode_0/observations", np.zeros((3, 2))),
            r"episode_0/observations has shape \(3, 2\), expected \(4, 2\)",
        ),
        (
            replace("episode_0/terminations", np.zeros(2, bool)),
            r"episode_0/terminations has shape \(2,\), expected \(3,\)",
        ),
        (replace("episode_1/rewards", np.zeros(0)), "episode_1/rewards is empty"),
        (replace("episode_2/rewards", np.zeros(9)), "episode_2/rewards exceeds the total_steps"),
        (
            replace("episode_2/rewards", np.array([0.0, np.nan])),
            "test/tiny-v0: rewards of episode 2, step 1 is NaN or infinite",
        ),
        (
            replace("episode_2/actions", np.array([[0.0], [3.0]])),
            "test/tiny-v0: 1 actions are outside the box .* episode 2, step 1",
        ),
        (
            replace("episode_0/truncations", np.array([True, False, False])),
            "truncations is set at episode 0, step 0",
        ),
        (lambda: change_metadata(total_steps=7), "holds 6 steps, its metadata.json says 7"),
        (lambda: change_metadata(total_steps=None), "total_steps is None, expected an integer"),
        (truncate_file, "is not a readable HDF5 file"),
    ],
)
def test_damaged_files_are_refused_by_name(damage, message):
    write()
    damage()
    with pytest.raises(InputError, match=message):
        data.load(ID)


def test_missing_files_are_named():
    folder = write()
    (folder / "data" / "main_data.hdf5").unlink()
    with pytest.raises(InputError, match=r"main_data.hdf5 does not exist, expected the data"):
        data.load(ID)
    (folder / "data" / "metadata.json").write_text("{")
    with pytest.raises(InputError, match=r"metadata.json is no JSON"):
        data.load(ID)
    (folder / "data" / "metadata.json").unlink()
    with pytest.raises(InputError, match=r"metadata.json is missing"):
        data.load(folder)


def test_unknown_id_without_network_fails_in_one_sentence(monkeypatch):
    with pytest.raises(InputError, match="fetch it with `minari download no/such-v0`"):
        data.load("no/such-v0", download=False)
    monkeypatch.setattr(minari_finding, "_is_reachable", lambda host: False)
    with pytest.raises(InputError, match="cannot be reached: download it elsewhere"):
        data.load("no/such-v0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="HF_HUB_OFFLINE forbids"):
        data.load("no/such-v0")


def test_download_errors_become_one_sentence(monkeypatch):
    import minari

    def fail(dataset_id):
        raise ValueError("no such version\nand a long story")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(minari_finding, "_is_reachable", lambda host: True)
    monkeypatch.setattr(minari, "download_dataset", fail)
    with pytest.raises(InputError, match=r"downloading it failed: no such version$"):
        data.load("no/such-v0")


def test_cache_gives_the_same_and_follows_the_file():
    write()
    direct = data.load(ID)
    for _ in range(2):  # written, then mapped
        assert_equal(data.load(ID, cache=True), direct)
    assert len(list((minari_finding.datasets_root().parent / "cache").iterdir())) == 1
    replace("episode_0/rewards", np.array([5.0, 6, 7]))()
    assert data.load(ID, cache=True).rewards[:3].tolist() == [5, 6, 7]


def write_images():
    """A dataset that minari itself encodes as JPEG, which only minari can decode."""
    import minari
    from minari.data_collector import EpisodeBuffer

    image = np.full((3, 8, 8, 3), 128, np.uint8)
    flags = {"terminations": [False, True], "truncations": [False, False]}
    buffer = EpisodeBuffer(observations=image, actions=np.zeros((2, 1)), rewards=[1.0, 2], **flags)
    spaces = {
        "observation_space": gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8),
        "action_space": gymnasium.spaces.Box(-1, 1, (1,)),
    }
    minari.create_dataset_from_buffers(ID, [buffer], **spaces)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_jpeg_images_are_read_through_minari():
    pytest.importorskip("PIL")
    write_images()
    dataset = data.load(ID)
    assert dataset.observations.shape == (3, 8, 8, 3)
    assert dataset.observations.dtype == np.uint8
    assert np.all(np.abs(np.asarray(dataset.observations, int) - 128) < 8)
    assert dataset.rewards.tolist() == [1, 2]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_episodes_cut_by_minaris_reader_are_refused():
    pytest.importorskip("PIL")
    write_images()
    with hdf5() as file:
        file["episode_0"].attrs["total_steps"] = 40_000
    with pytest.raises(InputError, match="has 2 steps, its metadata says 40000: the file was"):
        data.load(ID)


# --- The environment of a set ---


def test_an_evaluation_environment_wins_and_is_named():
    write(environment_id="CartPole-v1")
    collection = gymnasium.spec("CartPole-v1").to_json()
    evaluation = gymnasium.spec("CartPole-v0").to_json()
    change_metadata(env_spec=collection, eval_env_spec=evaluation, environment_id=None)
    info = data.load(ID).info
    assert (info.environment_id, info.environment_spec) == ("CartPole-v0", evaluation)
    assert info.environment_source == "eval_env_spec"
    assert "evaluation environment CartPole-v0 (eval_env_spec), and not the one" in info.notes[0]
    change_metadata(eval_env_spec=None)
    info = data.load(ID).info
    assert (info.environment_id, info.environment_source) == ("CartPole-v1", "env_spec")
    assert info.notes == ()
    change_metadata(eval_env_spec="{")
    with pytest.raises(InputError, match=r"metadata.json: field eval_env_spec is not gymnasium's"):
        data.load(ID)


def test_a_given_environment_replaces_the_whole_specification():
    specification = gymnasium.make("MountainCar-v0", max_episode_steps=50).spec
    write(environment_id=None, environment_spec=specification)
    info = data.load(ID).info
    assert info.environment_id == "MountainCar-v0"
    assert json.loads(info.environment_spec)["max_episode_steps"] == 50
    info = data.load(ID, environment_id="MountainCar-v0").info
    assert (info.environment_spec, info.environment_source) == (None, "given at load")
    with pytest.raises(InputError, match="environment_spec is not a specification"):
        write(environment_spec=[1], overwrite=True)


def test_reference_scores_on_another_footing_say_so():
    data.write_minari("D4RL/pen/human-v2", episodes(), action_space=([-2.0], [2.0]))
    info = data.load("D4RL/pen/human-v2").info
    assert info.reference_scores == data.reference_scores("pen-human-v1")
    assert any("D4RL's 100 steps" in note for note in info.notes)


# --- Spaces ---


def test_keys_keep_the_order_of_the_environment():
    boxes = {key: gymnasium.spaces.Box(-1, 1, (1,)) for key in ("z", "a")}
    space = gymnasium.spaces.Dict(collections.OrderedDict(boxes))
    observations = {"z": np.array([[0.1], [0.2]]), "a": np.array([[0.3], [0.4]])}
    given = {"observations": observations, "actions": [[0.0]], "rewards": [1.0]}
    data.write_minari(ID, [given], observation_space=space)
    expected = [
        gymnasium.spaces.flatten(space, {key: observations[key][i] for key in observations})
        for i in range(2)
    ]
    np.testing.assert_allclose(expected, [[0.1, 0.3], [0.2, 0.4]])
    np.testing.assert_allclose(data.load(ID).observations, expected)


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.MultiDiscrete([2, 3], start=[1, 0]),
        gymnasium.spaces.MultiBinary(2),
        gymnasium.spaces.Box(0, 255, (3,), np.uint8),
        gymnasium.spaces.Box(-1, 1, (3,), np.float64),
        gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(2), gymnasium.spaces.Box(0, 1, (2,))]),
    ],
)
def test_every_flat_space_is_written(space):
    space.seed(0)
    rows = [space.sample() for _ in range(2)]
    nested = isinstance(space, gymnasium.spaces.Tuple)
    observations = tuple(map(np.stack, zip(*rows, strict=True))) if nested else np.stack(rows)
    given = {"observations": observations, "actions": [[0.0]], "rewards": [1.0]}
    data.write_minari(ID, [given], observation_space=space)
    expected = [gymnasium.spaces.flatten(space, row) for row in rows]
    found = data.load(ID).observations
    np.testing.assert_allclose(found, expected)
    assert found.dtype == np.float32  # only images stay bytes


def test_unsupported_spaces_are_named_with_their_place():
    write()
    text = {"type": "Text", "max_length": 9, "min_length": 0, "charset": "ab"}
    box = {"type": "Box", "dtype": "float32", "shape": [1], "low": [-1.0], "high": [1.0]}
    nested = {"type": "Dict", "subspaces": {"state": box, "task": {"type": "Tuple"}}}
    nested["subspaces"]["task"]["subspaces"] = [box, text]
    change_metadata(observation_space=json.dumps(nested))
    with pytest.raises(InputError, match="test/tiny-v0: observations/task/1 is of a Text space"):
        data.load(ID)
    actions = {"type": "Tuple", "subspaces": [box, box]}
    change_metadata(observation_space=json.dumps(box), action_space=json.dumps(actions))
    with pytest.raises(InputError, match="test/tiny-v0: actions of a Tuple space are not support"):
        data.load(ID)


# --- Kinds of sources ---


def test_a_minari_object_gives_the_episodes_that_it_shows():
    import minari

    write()
    whole = minari.load_dataset(ID)
    assert_equal(data.load(whole), data.load(ID))
    shown = data.load(whole.filter_episodes(lambda episode: len(episode.rewards) < 3))
    assert_equal(shown, data.from_episodes(episodes()[1:], action_space=([-2.0], [2.0])))
    assert shown.info.name == ID
    assert shown.info.notes == ("2 of the 3 episodes, as the MinariDataset has them",)


def test_files_of_no_known_kind_exist(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InputError, match=r"x.pkl is a file that ends in .pkl, expected a Minari"):
        data.load(tmp_path / "x.pkl")
    with pytest.raises(InputError, match=r"folder.npz is no file, expected a Minari id"):
        data.load(tmp_path / "folder.npz")
    with pytest.raises(InputError, match="a dataset in a list is unknown, expected a Minari id"):
        data.load([1, 2])


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    write()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MINARI_DATASETS_PATH", "~/minari")
    assert data.load(ID).num_transitions == 6
    data.save_npz(data.load(ID), tmp_path / "x.npz")
    assert data.load("~/x.npz").num_transitions == 6
    monkeypatch.setenv("DDM_CACHE", "~/cache")
    data.load(ID, cache=True)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_arrays_are_called_as_they_are_told(tmp_path):
    arrays = {"observations": [[0.0]], "actions": [[0.0]], "rewards": [1.0], "terminations": [1]}
    assert data.load(arrays).info.name == "arrays"
    assert data.load(arrays, name="mine").info.name == "mine"


# --- What files of Minari cannot say by themselves ---


def test_a_log_without_rewards_stays_one():
    given = [{k: v for k, v in episode.items() if k != "rewards"} for episode in episodes()]
    data.write_minari(ID, given, action_space=([-2.0], [2.0]))
    for name in (ID, "test/again-v0"):
        log = data.load(name)
        assert not log.info.has_rewards
        assert_equal(log, data.from_episodes(given, action_space=([-2.0], [2.0])))
        data.write_minari("test/again-v0", log, overwrite=True)


def test_bootstraps_that_stop_inside_an_episode_come_back():
    given = [
        {**episode, "masks": np.arange(len(episode["rewards"])) != 1} for episode in episodes()
    ]
    for episode in given:
        del episode["terminations"]
    data.write_minari(ID, given, action_space=([-2.0], [2.0]))
    for name in (ID, "test/again-v0"):
        log = data.load(name)
        assert log.terminations.tolist() == [False, True, False, False, False, True]
        assert log.episode_lengths.tolist() == [3, 1, 2]
        data.write_minari("test/again-v0", log, overwrite=True)


def test_doubles_that_float32_cannot_tell_apart_are_named():
    given = episodes()
    for episode in given:
        episode["observations"][:, 1] = 1.7e9 + np.arange(len(episode["observations"]))
    space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    options = {"action_space": ([-2.0], [2.0]), "observation_space": space}
    data.write_minari(ID, given, **options)
    assert any("observations in dimension 1 lose" in note for note in data.load(ID).info.notes)
    data.write_minari("test/again-v0", episodes(), overwrite=True, **options)
    with h5py.File(
        minari_finding.datasets_root() / "test/again-v0/data/main_data.hdf5", "r+"
    ) as file:
        file["episode_0/rewards"][0] = 1e300
    with pytest.raises(InputError, match="rewards of episode 0, step 0 is beyond the range"):
        data.load("test/again-v0")


def test_a_set_that_does_not_fit_is_refused_before_it_is_read(monkeypatch):
    from ddm.data import memory

    write()
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 100)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**40)
    with pytest.raises(InputError, match=r"main_data.hdf5 holds arrays of .* and the host has"):
        data.load(ID)
