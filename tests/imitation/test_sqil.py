"""SQIL: the fixed point of soft Q-learning with the shares of the expert as rewards."""

from __future__ import annotations

import contract
import jax
import jax.numpy as jnp
import numpy as np
import occupancies
import pytest

from ddm.envs import tabular
from ddm.errors import InputError
from ddm.imitation import sqil

CONTRACT = contract.Contract(
    small={"temperature": 0.5},
    variants=[{"num_actions": contract.NUM_ACTIONS, "absorbing": True}],
    context={"absorbing_copies": {"absorbing": True}},
)
KEY = jax.random.key(0)


def test_values_are_those_of_the_share_of_demonstrated_rows():
    """With a table, errors vanish where Q = n_E / (n_E + lambda n_own) + gamma V(s')."""
    random = np.random.default_rng(5)
    transitions = np.eye(4)[random.integers(4, size=(4, 2))]
    ends = np.array([False, False, False, True])
    mdp = tabular.make_mdp(transitions, np.zeros((4, 2)), np.full(4, 0.25), 0.8, ends)
    own_pairs = random.dirichlet(np.ones(8)).reshape(4, 2) + 0.05
    expert_pairs = random.dirichlet(np.ones(8)).reshape(4, 2)
    own_pairs[3], expert_pairs[3] = 0.0, 0.0
    own, _ = occupancies.rows_of(mdp, None, 100, pairs=own_pairs)
    expert, _ = occupancies.rows_of(mdp, None, 100, pairs=expert_pairs)
    config = sqil.Config(
        num_actions=2, num_critics=1, temperature=0.3, discount=0.8, own_weight=0.5,
        target_rate=0.2, critic_learning_rate=0.02, critic_network=occupancies.table,
    )  # fmt: skip
    batch = {"expert": expert, "own": own}

    @jax.jit
    def train(state):
        return jax.lax.scan(lambda state, _: sqil.update(config, state, batch), state, length=1500)

    state, _ = train(sqil.init(config, KEY, batch))

    def shares(rows):
        counts = np.zeros((4, 2))
        np.add.at(counts, (np.asarray(rows.observations).argmax(axis=1), rows.actions), 1)
        return counts / counts.sum()

    expert_shares, own_shares = shares(expert), 0.5 * shares(own)
    seen = expert_shares + own_shares > 0
    rewards = np.divide(expert_shares, expert_shares + own_shares, out=np.zeros((4, 2)), where=seen)
    values, expected = np.zeros(4), np.zeros((4, 2))
    for _ in range(200):
        expected = np.where(seen, rewards + 0.8 * transitions @ (values * ~ends), 0.0)
        values = 0.3 * np.log(np.exp(expected / 0.3).sum(axis=1))
    [table] = jax.tree.leaves(state.critic.params)
    np.testing.assert_allclose(np.asarray(table)[:3], expected[:3], atol=0.02)
    assert np.ptp(expected[:3]) > 0.5


def test_absorbing_states_of_demonstrations_are_worth_a_reward_too():
    config = contract.small_config(sqil, num_actions=3, absorbing=True, absorbing_copies=8.0)
    batch = contract.make_batch(sqil, config)
    state = contract.jitted_init(sqil)(config, KEY, batch)
    assert state.critic.params["params"]["mlp"]["hidden_0"]["kernel"].shape[1] == 5
    ended = {name: rows.replace(terminations=jnp.ones(8, bool)) for name, rows in batch.items()}
    _, metrics = contract.jitted_update(sqil)(config, state, ended)
    plain = config.replace(absorbing=False)
    start = sqil.init(plain, KEY, batch)
    _, stopped = sqil.update(plain, start, ended)
    # Where values stop, all targets are the rewards, 1 and 0.
    own, demonstrated = (
        np.asarray(start.critic(batch[name].observations))[
            :, np.arange(8), np.asarray(batch[name].actions)
        ]
        for name in ("own", "expert")
    )
    expected = np.sum(np.mean((demonstrated - 1.0) ** 2 + own**2, axis=1))
    assert float(stopped["critic_loss"]) == pytest.approx(expected, rel=1e-5)
    assert metrics["critic_loss"] != stopped["critic_loss"]


def test_bad_input_and_trouble_are_named():
    config = contract.small_config(sqil)
    batch = contract.make_batch(sqil, config)
    integers = {n: rows.replace(actions=jnp.zeros(8, jnp.int32)) for n, rows in batch.items()}
    with pytest.raises(InputError, match=r"sqil: batch.actions are integers"):
        sqil.init(config, KEY, integers)
    assert sqil.diagnose(sqil.Config(), {"q_value": 99.0}) == []
    [sentence] = sqil.diagnose(sqil.Config(), {"q_value": 101.0})
    assert "q_value=101 lies beyond 100" in sentence
