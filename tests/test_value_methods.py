"""What all methods that learn from rewards have in common: refusals, ranges, and what they say."""

import dataclasses

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.errors import InputError
from ddm.types import diagnose

ALGORITHMS = {
    contract.short_name(each): each
    for each in contract.algorithms()
    if not each.__name__.startswith("ddm.imitation")
}
VALUE_METHODS = sorted(set(ALGORITHMS) - {"policy_gradient", "dynamics"})
# Their values are means of what was seen, or move by a step of at most 1: none runs away.
TABLES = {"q_learning", "tabular_cql", "spibb", "constrained_iteration", "tabular_model"}
DISCRETE = {*TABLES, "fitted_q", "discrete_bcq", "spibb_dqn", "kl_control"}
BOTH = {"iql", "awac", "awr", "crr", "one_step"}
# The head of their policy says which actions they take.
HEADS = {"npg", "ppo"}
OF_STATES = {"awr", "morel_npg", "morel_ppo", *HEADS}  # their values are V(s)
KEY = jax.random.key(0)


def _config_and_batch(name, **overrides):
    config = contract.small_config(ALGORITHMS[name], **overrides)
    return config, contract.make_batch(ALGORITHMS[name], config)


def _shapes(name, config, batch):
    return jax.eval_shape(ALGORITHMS[name].init, config, KEY, batch)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_number_of_a_config_declares_its_range(name):
    for field in dataclasses.fields(ALGORITHMS[name].Config):
        numbers = field.default if isinstance(field.default, tuple) else (field.default,)
        if all(type(each) in (int, float) for each in numbers):
            assert field.metadata["allowed"] or field.metadata["at_most"], field.name


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("iql", "expectile", 1.7), ("td3", "discount", 99.0), ("iql", "dropout_rate", 1.0),
        ("sac", "log_std_min", 3.0), ("sac", "num_critics", 0), ("td3", "hidden_sizes", (0,)),
        ("bcq", "log_var_min", 9.0), ("bear", "log_alpha_min", 11.0), ("td3", "target_rate", 0.0),
        ("sac", "temperature_min", 2.0), ("sac", "initial_temperature", 2e4),
        ("cql", "learning_rate", -1.0), ("kl_control", "target_samples", 0),
        ("spibb_dqn", "hash_bits", 33), ("brac", "target_divergence", float("nan")),
    ],
)  # fmt: skip
def test_numbers_outside_their_range_are_refused_by_name(name, field, value):
    field = "actor_learning_rate" if field == "learning_rate" else field
    with pytest.raises(InputError, match=f"{name}: {field} is"):
        ALGORITHMS[name].Config(**{field: value})


@pytest.mark.parametrize("name", VALUE_METHODS)
def test_one_row_is_enough_of_an_example(name):
    config, batch = _config_and_batch(name)
    one_row = jax.tree.map(lambda leaf: leaf[:1], batch)
    shapes = lambda batch: jax.tree.map(lambda leaf: leaf.shape, _shapes(name, config, batch))  # noqa: E731
    assert shapes(one_row) == shapes(batch)


@pytest.mark.parametrize("name", VALUE_METHODS)
def test_images_are_refused_in_one_sentence(name):
    config, batch = _config_and_batch(name)
    shape = (*batch.rewards.shape, 6, 6, 3)
    images = {
        field: jnp.zeros(shape, jnp.uint8)
        for field in ("observations", "next_observations", "initial_observations")
        if getattr(batch, field) is not None
    }
    with pytest.raises(InputError, match=rf"{name}: batch.observations has shape .* expected \(B"):
        _shapes(name, config, batch.replace(**images))


@pytest.mark.parametrize("name", sorted(set(VALUE_METHODS) - DISCRETE - HEADS))
def test_discrete_logs_are_refused_by_name(name):
    config, batch = _config_and_batch(name)
    actions = jnp.zeros(batch.rewards.shape, jnp.int32)
    batch = batch.replace(actions=actions)
    if batch.next_actions is not None:
        batch = batch.replace(next_actions=actions)
    with pytest.raises(InputError, match=rf"{name}: batch\.actions are integers"):
        _shapes(name, config, batch)


@pytest.mark.parametrize("name", sorted(DISCRETE | BOTH))
@pytest.mark.parametrize("action", [contract.NUM_ACTIONS, -1])
def test_an_action_beyond_num_actions_is_refused(name, action):
    config, batch = _config_and_batch(name, num_actions=contract.NUM_ACTIONS)
    actions = np.asarray(batch.actions).copy()
    actions[-1] = action
    batch = batch.replace(actions=jnp.asarray(actions))
    if contract.short_name(ALGORITHMS[name]) == "awr":  # the first steps of windows are its rows
        batch = batch.replace(actions=jnp.full_like(batch.actions, action))
    with pytest.raises(InputError, match=f"{name}: the log has action {action} .*num_actions is 3"):
        ALGORITHMS[name].init(config, KEY, batch)


def test_traced_actions_have_no_values_yet():
    config, batch = _config_and_batch("q_learning")
    wrong = batch.replace(actions=jnp.full_like(batch.actions, 9))
    assert _shapes("q_learning", config, wrong) is not None


@pytest.mark.parametrize("name", sorted(set(VALUE_METHODS) - TABLES))
def test_values_beyond_what_rewards_allow_are_reported(name):
    algorithm = ALGORITHMS[name]
    config, batch = _config_and_batch(name, discount=0.99)
    state = _shapes(name, config, batch)
    _, metrics = jax.eval_shape(algorithm.update, config, state, batch)
    value = "value" if name in OF_STATES else "q_value"
    assert {value, "reward_max"} <= set(metrics)
    quiet = {"reward_max": 2.0, value: 0.9 * 2.0 / (1.0 - config.discount)}
    assert diagnose(algorithm, config, quiet) == []
    for sign in (1.0, -1.0):
        loud = {"reward_max": 2.0, value: sign * 1.1 * 2.0 / (1.0 - config.discount)}
        [sentence] = diagnose(algorithm, config, loud)
        assert "beyond 200, the most that rewards of up to 2" in sentence


def test_what_the_method_adds_to_rewards_raises_the_bound():
    sac = ALGORITHMS["sac"]
    metrics = {"reward_max": 1.0, "q_value": 250.0, "temperature": 1.0, "entropy": 2.0}
    assert diagnose(sac, sac.Config(), metrics) == []  # (1 + 1 * 2) / 0.01 = 300
    assert len(diagnose(sac, sac.Config(backup_entropy=0.0), metrics)) == 1
    assert diagnose(sac, sac.Config(discount=1.0, backup_entropy=0.0), metrics) == []


@pytest.mark.parametrize("name", sorted(BOTH))
def test_weights_that_rest_on_few_rows_name_the_remedy(name):
    algorithm = ALGORITHMS[name]
    config = algorithm.Config()
    if hasattr(config, "weight"):
        config = config.replace(weight="exponential")
    [sentence] = diagnose(algorithm, config, {"effective_share": 0.01, "weight": 1.0})
    for remedy in ("--reward_scale", "--reward_transform=return_range", "inverse_temperature"):
        assert remedy in sentence
    # Rewards in the hundreds: a third of the rows at the cap, the others at 0.
    cut = {"effective_share": 0.33, "weight": 0.33 * config.max_weight}
    [sentence] = diagnose(algorithm, config, cut)
    assert f"max_weight={config.max_weight:g}" in sentence
    assert diagnose(algorithm, config, {"effective_share": 0.4, "weight": 1.6}) == []


@pytest.mark.parametrize("name", sorted(BOTH))
def test_a_schedule_that_is_not_set_follows_the_run(name):
    algorithm = ALGORITHMS[name]
    assert (algorithm.Config().actor_decay_steps is None) == (name == "iql")
    unset = algorithm.Config(actor_decay_steps=None)
    assert algorithm.resolve(unset, 5_000).actor_decay_steps == 5_000
    for steps in (0, 700):
        own = unset.replace(actor_decay_steps=steps)
        assert algorithm.resolve(own, 5_000).actor_decay_steps == steps
