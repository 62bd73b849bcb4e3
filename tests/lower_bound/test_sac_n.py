"""SAC-N: SAC to the bit with two critics; with more of them, lower values beside the data."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from ddm.lower_bound import sac_n
from ddm.off_policy import sac

CONTRACT = contract.Contract(
    other={"temperature_min": 1.0, "temperature_max": 1.0, "backup_entropy": 0.5},
    context={
        "temperature_min": {"target_entropy": -50.0},
        "temperature_max": {"target_entropy": 50.0},
    },
)

SMALL = {
    "hidden_sizes": (16, 16), "discount": 0.9, "actor_learning_rate": 1e-3,
    "critic_learning_rate": 3e-3, "target_rate": 0.02, "initial_temperature": 0.01,
    "temperature_learning_rate": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def narrow():
    """The probe with logged actions in [-0.6, -0.4] only."""
    data = probes.two_steps(sac_n.batch_spec(sac_n.Config()), rows=2000, seed=0)
    actions = -0.5 + 0.1 * data.actions
    at_end = data.observations[:, 0] > 0
    rewards = np.where(at_end, 1.0 - (actions[:, 0] - probes.BEST_ACTION) ** 2, 0.0)
    return data.replace(actions=actions, rewards=rewards.astype(np.float32))


def test_with_two_critics_it_is_sac_to_the_bit(narrow):
    batch = jax.tree.map(lambda leaf: leaf[:16], narrow)
    ours, theirs = sac_n.Config(**SMALL, num_critics=2), sac.Config(**SMALL)
    one, other = (
        jax.jit(module.update)(config, module.init(config, jax.random.key(0), batch), batch)[0]
        for module, config in ((sac_n, ours), (sac, theirs))
    )
    for got, want in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if not jnp.issubdtype(got.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(got, want)


def test_the_spread_is_that_of_the_members(narrow):
    batch = jax.tree.map(lambda leaf: leaf[:16], narrow)
    config = sac_n.Config(**SMALL, num_critics=5)
    state = sac_n.init(config, jax.random.key(0), batch)
    _, metrics = jax.jit(sac_n.update)(config, state, batch)
    values = np.asarray(state.critic(batch.observations, batch.actions))
    assert values.shape == (5, 16)
    assert metrics["q_spread"] == pytest.approx(values.std(axis=0).mean(), rel=1e-5)


def test_the_target_is_the_lowest_of_all_members(narrow):
    batch = jax.tree.map(lambda leaf: leaf[:16], narrow)
    config = sac_n.Config(**SMALL, num_critics=6)
    state = sac_n.init(config, jax.random.key(0), batch)
    policy = sac.policy_at(config, state.actor, batch.next_observations)
    actions, log_probs = policy.sample_and_log_prob(seed=jax.random.key(1))
    members = np.asarray(state.critic.target(batch.next_observations, actions))
    assert len(set(members.argmin(axis=0))) > 1  # not always the same one
    soft = members.min(axis=0) - 0.01 * np.asarray(log_probs)
    expected = batch.rewards + 0.9 * np.where(batch.terminations, 0.0, soft)
    found = sac.critic_targets(config, state, batch, jax.random.key(1))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_ensemble_of_one_is_refused():
    with pytest.raises(ValueError, match="num_critics is 1, expected"):
        sac_n.Config(num_critics=1)
