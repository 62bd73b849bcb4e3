"""ACT: masks, ensembles and chunks by hand; pauses that chunks survive; a fork that z = 0 fails."""

import contract
import forks
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from ddm import data
from ddm.errors import InputError
from ddm.imitation import act, bc
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={
        "width": 8,
        "num_heads": 4,
        "num_layers": 1,
        "chunk_size": 3,
        "execute_steps": 3,
        "latent_dim": 2,
    },
    variants=[
        {"temporal_ensemble": True, "latent": "sample"},
        {"encoder": "conv", "observation_steps": 2, "dropout_rate": 0.0},
    ],
    other={
        "chunk_size": 4,
        "execute_steps": 2,
        "ensemble_decay": 1.0,
        "latent": "sample",
        "latent_dim": 3,
        "num_decoder_layers": 2,
    },
    context={"execute_steps": {"chunk_size": 4}, "ensemble_decay": {"temporal_ensemble": True}},
    slow=True,
)

SMALL = act.Config(
    width=16, num_heads=2, num_layers=1, chunk_size=4, execute_steps=4, latent_dim=2,
    dropout_rate=0.0, learning_rate=1e-3,
)  # fmt: skip
INIT, STEP = jax.jit(act.init), jax.jit(act.act)


def _batch(config, rows=3, seed=0):
    window = act.batch_spec(config).window
    random = np.random.default_rng(seed)
    return Batch(
        observations=jnp.asarray(random.normal(size=(rows, window, 3)), jnp.float32),
        actions=jnp.asarray(random.uniform(-1, 1, (rows, window, 2)), jnp.float32),
        mask=jnp.ones((rows, window), bool),
    )


def _train(config, windows, steps):
    def one(state, key):
        rows = jax.random.randint(key, (32,), 0, len(windows.mask))
        return act.update(config, state, jax.tree.map(lambda leaf: leaf[rows], windows))

    @jax.jit
    def run(windows):
        state = act.init(config, jax.random.key(0), windows)
        return jax.lax.scan(one, state, jax.random.split(jax.random.key(1), steps))

    return run(windows)


def _play(config, state, observations, seed=0):
    """Actions (T, A) and the memory after each of them."""
    memory, actions, memories = act.initial_policy_state(config, state), [], []
    for step, observation in enumerate(observations):
        key = jax.random.fold_in(jax.random.key(seed), step)
        action, memory = STEP(config, state, observation, key, memory)
        actions.append(np.asarray(action))
        memories.append(memory)
    return np.array(actions), memories


OBSERVATIONS = jax.random.normal(jax.random.key(5), (7, 3))


@pytest.fixture(scope="module")
def fresh():
    """A policy that was never trained: its chunks depend on the observation all the same."""
    return INIT(SMALL, jax.random.key(0), _batch(SMALL))


@pytest.fixture(scope="module")
def chunks(fresh):
    """(T, 4, A): the chunk that the fresh policy makes at each observation."""
    _, memories = _play(SMALL.replace(execute_steps=1), fresh, OBSERVATIONS)
    return np.array([memory.plan.actions for memory in memories])


def test_the_error_is_the_mean_over_valid_steps_by_hand():
    predictions = jnp.array([[[1.0, 0.0], [2.0, 2.0]], [[0.5, 0.5], [9.0, 9.0]]])
    targets = jnp.zeros((2, 2, 2))
    valid = jnp.array([[True, True], [True, False]])
    # (1/2 + 2 + 1/2) / 3; the authors' code would divide by 4.
    assert act.masked_l1(predictions, targets, valid) == pytest.approx(1.0)
    with pytest.raises(AssertionError):
        act.masked_l1(predictions[:, :1], targets, valid)


@pytest.mark.slow
def test_nothing_beyond_the_episode_and_no_later_observation_matters():
    config = SMALL.replace(observation_steps=2, dropout_rate=0.5)
    batch = _batch(config)
    batch = batch.replace(mask=batch.mask.at[0, 3:].set(False).at[1, 2:].set(False))
    state = INIT(config, jax.random.key(0), batch)
    update = jax.jit(act.update)

    def after(batch):
        updated, metrics = update(config, state, batch)
        return [*jax.tree.leaves(updated.policy), metrics["loss"]]

    expected = after(batch)
    padded = jnp.where(batch.mask[..., None], batch.actions, 7.0)
    past = batch.actions.at[:, 0].set(7.0)  # the action before the present step
    later = batch.observations.at[:, 2:].set(7.0)
    for other in (
        batch.replace(actions=padded),
        batch.replace(actions=past),
        batch.replace(observations=later),
    ):
        for got, want in zip(after(other), expected, strict=True):
            np.testing.assert_array_equal(got, want)
    # What does matter: a valid action, the mask, each of the two frames.
    for other in (
        batch.replace(actions=batch.actions.at[0, 2].set(7.0)),
        batch.replace(mask=batch.mask.at[1, 2].set(True)),
        batch.replace(observations=batch.observations.at[0, 0].add(1.0)),
        batch.replace(observations=batch.observations.at[0, 1].add(1.0)),
    ):
        assert after(other)[-1] != expected[-1]


def test_chunks_have_their_shape_and_are_played_in_order(fresh, chunks):
    assert chunks.shape == (7, 4, 2)
    assert np.abs(chunks[0, 0] - chunks[0, 1]).max() > 1e-3  # the queries differ
    actions, _ = _play(SMALL.replace(execute_steps=3), fresh, OBSERVATIONS)
    expected = [*chunks[0, :3], *chunks[3, :3], chunks[6, 0]]
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)


def test_ensembles_average_all_predictions_for_the_step(fresh, chunks):
    config = SMALL.replace(temporal_ensemble=True, ensemble_decay=0.5)
    actions, _ = _play(config, fresh, OBSERVATIONS)
    for step, action in enumerate(actions):
        made = np.arange(max(step - 3, 0), step + 1)  # oldest first
        weights = np.exp(-0.5 * np.arange(len(made)))
        stored = chunks[made, step - made]
        expected = np.sum(weights[:, None] * stored, axis=0) / np.sum(weights)
        np.testing.assert_allclose(action, expected, rtol=1e-4, atol=1e-5)


def test_an_ensemble_of_chunks_of_one_is_plain_acting():
    config = SMALL.replace(chunk_size=1, execute_steps=1)
    state = INIT(config, jax.random.key(0), _batch(config))
    plain, _ = _play(config, state, OBSERVATIONS[:3])
    ensembled, _ = _play(config.replace(temporal_ensemble=True), state, OBSERVATIONS[:3])
    np.testing.assert_allclose(ensembled, plain, rtol=1e-6)


def test_a_sampled_latent_is_drawn_for_each_chunk_or_each_episode(fresh):
    config = SMALL.replace(latent="sample", execute_steps=2)
    same = jnp.broadcast_to(OBSERVATIONS[0], (4, 3))
    _, memories = _play(config, fresh, same)
    plans = [np.asarray(memory.plan.actions) for memory in memories]
    np.testing.assert_array_equal(plans[0], plans[1])
    assert np.abs(plans[1] - plans[2]).max() > 1e-4
    config = config.replace(temporal_ensemble=True)
    latents = [
        [np.asarray(memory.latent) for memory in _play(config, fresh, same[:2], seed)[1]]
        for seed in (0, 1)
    ]
    np.testing.assert_array_equal(latents[0][0], latents[0][1])
    assert np.abs(latents[0][0] - latents[1][0]).min() > 1e-4


# Demonstrators that walk to a way-point, wait 3 to 7 steps there, and walk on.

WAIT = np.arange(3, 8)
CHUNKED = SMALL.replace(chunk_size=5, execute_steps=5, learning_rate=4e-3, decay_steps=400)


def _walk(start, wait):
    """One step of 1 / 2 to the right for each action above 0.5; the way-point is at 0."""
    actions = np.r_[np.ones(start), np.zeros(wait), np.ones(8)].astype(np.float32)
    steps = len(actions)
    return {
        "observations": (np.r_[0, np.cumsum(actions)][:, None] - start).astype(np.float32) / 2,
        "actions": actions[:, None],
        "rewards": np.zeros(steps, np.float32),
        "terminations": np.zeros(steps, bool),
        "truncations": np.arange(steps) == steps - 1,
    }


@pytest.fixture(scope="module")
def walks():
    episodes = [_walk(start, wait) for start in range(3, 9) for wait in WAIT]
    return data.from_episodes(episodes, action_space=(-1.0, 1.0), name="pauses")


def _windows(dataset, algorithm, config):
    spec = algorithm.batch_spec(config)
    return data.sample(dataset, jax.random.key(0), 4000, spec)


@pytest.fixture(scope="module")
def chunked(walks):
    windows = _windows(walks, act, CHUNKED)
    return _train(CHUNKED, windows, steps=400)[0]


def _share_that_leaves(algorithm, config, state, episodes=60):
    """Share of episodes that are 4 steps beyond the way-point after 40; sensors have noise."""

    def episode(state, key):
        start_key, key = jax.random.split(key)
        begin = -jax.random.randint(start_key, (), 3, 9)

        def step(carry, key):
            place, memory = carry
            noise_key, key = jax.random.split(key)
            seen = (place + 0.05 * jax.random.normal(noise_key)) / 2
            action, memory = algorithm.act(
                config, state, seen[None], key, memory, deterministic=True
            )
            return (place + (action[0] > 0.5), memory), None

        memory = act.initial_policy_state(config, state) if algorithm is act else ()
        carry, _ = jax.lax.scan(step, (begin, memory), jax.random.split(key, 40))
        return carry[0] >= 4

    keys = jax.random.split(jax.random.key(3), episodes)
    return float(jax.jit(jax.vmap(episode, in_axes=(None, 0)))(state, keys).mean())


def test_a_single_step_regression_stalls_where_demonstrators_waited(walks):
    # In 6 visits of the way-point, the mean wait and the step on, one action is 1.
    config = bc.Config(head="mse", hidden_sizes=(32, 32), learning_rate=3e-3, decay_steps=800)
    state, _ = probes.train(bc, config, _windows(walks, bc, config), steps=800)
    assert probes.mode(bc, config, state, 0.0) == pytest.approx(1 / 6, abs=0.07)
    assert _share_that_leaves(bc, config, state) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", [False, True])
def test_chunks_leave_the_place_where_demonstrators_waited(chunked, ensemble):
    config = CHUNKED.replace(temporal_ensemble=ensemble)
    assert _share_that_leaves(act, config, chunked) > 0.95


def test_a_chunk_is_the_median_of_what_demonstrators_did_next(chunked):
    # Of 6 visits 1, 2, 3, 4 have gone on after 0, 1, 2, 3 steps: half of them after two.
    _, [memory] = _play(CHUNKED, chunked, jnp.zeros((1, 1)))
    plan = memory.plan.actions[:, 0]
    np.testing.assert_allclose(plan[:2], 0.0, atol=0.15)
    np.testing.assert_allclose(plan[3:], 1.0, atol=0.15)


@pytest.mark.slow
def test_the_mean_latent_fails_on_a_fork_that_drawn_ones_solve():
    config = SMALL.replace(
        chunk_size=1, execute_steps=1, kl_weight=0.1, learning_rate=3e-3, decay_steps=800
    )
    windows = forks.demonstrations(4000, window=1)
    state, metrics = _train(config, windows, steps=800)
    observations = windows.observations[:1000, 0]
    shares = {
        latent: forks.validity(
            observations, forks.act_at(act, config.replace(latent=latent), state, observations)
        )
        for latent in act.LATENTS
    }
    assert metrics["kl"][-100:].mean() > np.log(2.0)  # the branch is one bit
    assert shares["zero"] < 0.3  # 0.05 with batches of 64
    assert shares["sample"] > 0.85  # 0.95 with batches of 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": "mean"}, "act: latent=mean is unknown; choose one of zero, sample"),
        ({"execute_steps": 5}, "act: execute_steps is 5, expected at most chunk_size=4"),
        ({"observation_steps": 0}, "act: observation_steps is 0, expected a value in"),
        (
            {"chunk_size": 3, "execute_steps": 2},
            r"act: batch.observations has shape \(3, 4, 3\), expected windows of 3",
        ),
        ({"width": 18, "num_heads": 4}, "a width of 18 does not divide into 4 heads"),
        ({"encoder": "conv"}, "act: encoder=conv is for images"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options, message):
    with pytest.raises(InputError, match=message):
        act.init(SMALL.replace(**options), jax.random.key(0), _batch(SMALL))


def test_integer_actions_are_refused():
    batch = _batch(SMALL)
    batch = batch.replace(actions=jnp.zeros((3, 4), jnp.int32))
    with pytest.raises(InputError, match=r"act: batch.actions are integers \(int32\)"):
        act.init(SMALL, jax.random.key(0), batch)
