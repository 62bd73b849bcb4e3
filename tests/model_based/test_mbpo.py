from __future__ import annotations

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONTEXT, OTHER, SMALL_MODEL, SMALL_ROUNDS

import ddm
from ddm import data, envs, runner
from ddm.errors import InputError
from ddm.experience import Collector, CollectSpec
from ddm.model_based import dynamics, mbpo

CONTRACT = contract.Contract(
    small={**SMALL_MODEL, **SMALL_ROUNDS}, other={**OTHER, "model_updates": 1}, context=CONTEXT
)


def test_a_fit_runs_through_both_stages_and_leaves_the_model_as_it_was_trained():
    log = data.from_arrays(
        *(np.random.default_rng(0).uniform(-1, 1, (60, size)) for size in (4, 2)),
        rewards=np.zeros(60), truncations=np.arange(60) % 20 == 19,
    )  # fmt: skip
    config = contract.small_config(mbpo, steps_per_epoch=0, termination="auto", num_rollouts=8)
    config = ddm.prepare(mbpo, config, log)
    assert config.termination == "never"
    assert config.steps_per_epoch == (len(log.rewards) - int(0.2 * len(log.rewards))) // 4
    model_steps = 2 * config.steps_per_epoch
    train = jax.jit(lambda key: ddm.fit(mbpo, config, log, key, model_steps + 4, batch_size=8))
    state, metrics = train(jax.random.key(0))
    assert metrics["dynamics/holdout_error"].shape == (2,)
    assert metrics["policy/q_value"].shape == (2,)
    assert state.step == model_steps + 4
    assert state.policy.step == 4
    assert state.model.step == model_steps
    assert state.imagined.size == 2 * 8 * 2  # rounds, episodes, steps
    after, _ = jax.jit(mbpo.update)(config, state, contract.make_batch(mbpo, config))
    same = jax.tree.map(lambda x, y: bool(jnp.all(x == y)), state.model.params, after.model.params)
    assert all(jax.tree.leaves(same))


def test_online_the_model_learns_from_the_policys_own_steps():
    environment = envs.make("Pendulum-v1")
    config = contract.small_config(
        mbpo, max_epochs=0, model_updates=4, termination="never", num_rollouts=8
    )
    spec = CollectSpec(steps_per_update=4, capacity=64, random_steps=32)
    collector = Collector.create(environment, spec)
    [note] = ddm.training.notes(mbpo, config, collector.empty_buffer(None))
    assert note == "imagined episodes end by the rule 'never'"  # there is no log to agree with
    learner, metrics = jax.jit(
        lambda key: ddm.fit_online(mbpo, config, collector, key, 6, batch_size=8)
    )(jax.random.key(0))
    assert metrics["holdout_error"].shape == (3,)
    assert learner.experience.buffer.size == 32 + 3 * 4
    assert learner.state.model.train_loss != 0.0
    members, used = learner.state.model.members.params, learner.state.model.params
    assert all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), members, used)))


def test_imagined_transitions_that_do_not_fit_are_refused_before_training(tmp_path):
    random = np.random.default_rng(0)
    log = data.from_arrays(
        random.normal(size=(60, 3)), random.uniform(-1, 1, (60, 2)), rewards=np.zeros(60),
        truncations=np.arange(60) % 20 == 19,
    )  # fmt: skip
    config = contract.small_config(mbpo, steps_per_epoch=0, retained_rounds=10**9)
    options = runner.Options(
        run_dir=str(tmp_path / "no"), num_updates=8, batch_size=8, plots=False, progress="none",
        seeds=3,
    )  # fmt: skip
    # Three lanes of 4 * 10^9 rows of 3 + 2 + 1 + 3 numbers and two flags.
    gibibytes = 3 * 4e9 * (9 * 4 + 2) / 2**30
    with pytest.raises(
        InputError,
        match=f"imagined transitions of 3 lanes with room for 4000000000 needs {gibibytes:.2f} GiB "
        r"and .* has .* free",
    ):
        runner.train(mbpo, config, log, None, options)
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_a_random_log_of_a_pendulum_is_enough_to_swing_it_up():
    """Random play earns about -1,200; a policy that swings up and balances about -150."""
    environment = envs.make("Pendulum-v1")
    space = environment.action_space(environment.default_params)

    low, high = jnp.asarray(space.low), jnp.asarray(space.high)

    def play(observation, key, policy_state):
        del observation
        return jax.random.uniform(key, space.shape, jnp.float32, low, high), policy_state

    episodes = envs.collect(environment, play, jax.random.key(0), num_episodes=50)
    log = data.normalize(
        data.from_episodes(episodes, action_space=space, name="random"), "standardize"
    )
    config = mbpo.Config(
        model_hidden_sizes=(64, 64), model_weight_decay=(1e-5,), max_epochs=40, num_rollouts=5000,
        hidden_sizes=(64, 64), rollout_frequency=500,
    )  # fmt: skip
    config = ddm.prepare(mbpo, config, log)
    steps = config.max_epochs * config.steps_per_epoch + 10_000
    state, metrics = jax.jit(lambda key: ddm.fit(mbpo, config, log, key, steps))(jax.random.key(0))
    assert dynamics.diagnose(config, {k: float(v[-1]) for k, v in metrics.items()}) == []
    policy = ddm.evaluation.Policy(mbpo, config, state, log.normalization, space)
    result = ddm.evaluation.evaluate(policy, environment, seed=1, num_episodes=10, lanes=False)
    assert result.returns.mean() > -300.0
