"""EDAC: its similarity against a loop over pairs, and SAC-N where its weight is 0."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from flax import linen as nn

from ddm import networks
from ddm.lower_bound import edac, sac_n
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={"num_critics": 3},
    other={"temperature_min": 1.0, "temperature_max": 1.0, "backup_entropy": 0.5},
    context={
        "temperature_min": {"target_entropy": -50.0},
        "temperature_max": {"target_entropy": 50.0},
    },
)

CONFIG = edac.Config(hidden_sizes=(16, 16), num_critics=4, critic_learning_rate=1e-3)


@pytest.fixture(scope="module")
def batch():
    return contract.make_batch(edac, CONFIG, rows=12)


@pytest.fixture(scope="module")
def state(batch):
    return edac.init(CONFIG, jax.random.key(0), batch)


def test_similarity_is_the_mean_cosine_of_all_other_members():
    random = np.random.default_rng(0)
    slopes = random.normal(size=(5, 7, 3)).astype(np.float32)
    expected = np.zeros(7)
    for row in range(7):
        for i in range(5):
            for j in range(5):
                if i != j:
                    one, other = slopes[i, row], slopes[j, row]
                    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
                    expected[row] += cosine / 4
    np.testing.assert_allclose(edac.similarities(jnp.asarray(slopes)), expected, atol=1e-5)


def test_similarity_lies_between_its_bounds():
    same = jnp.broadcast_to(jnp.array([[[3.0, 4.0]]]), (6, 2, 2))
    np.testing.assert_allclose(edac.similarities(same), 6.0, rtol=1e-5)
    angles = jnp.arange(6) * jnp.pi / 3  # all around: they sum to nothing
    around = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)[:, None]
    np.testing.assert_allclose(edac.similarities(around), -6.0 / 5.0, rtol=1e-5)


def test_a_slope_of_zero_has_a_finite_gradient():
    slopes = jnp.zeros((3, 2, 2)).at[0].set(1.0)
    gradient = jax.grad(lambda slopes: edac.similarities(slopes).sum())(slopes)
    assert np.isfinite(gradient).all()


class Own(nn.Module):
    """Two members that share their first layer."""

    @nn.compact
    def __call__(self, observations, actions):
        inputs = jnp.concatenate([observations, actions], axis=-1)
        return jnp.moveaxis(nn.Dense(2)(jnp.tanh(nn.Dense(8)(inputs))), -1, 0)


def test_slopes_are_the_gradients_of_the_members_of_any_ensemble(state, batch):
    inputs = batch.observations, batch.actions
    own = networks.trainable(Own(), Own().init(jax.random.key(1), *inputs))
    for critic in (state.critic, own):
        slopes = networks.action_slopes(critic, critic.params, *inputs)
        jacobian = jax.jacrev(lambda a, critic=critic: critic(batch.observations, a))(batch.actions)
        expected = jnp.moveaxis(jnp.diagonal(jacobian, axis1=1, axis2=2), -1, 1)
        np.testing.assert_allclose(slopes, expected, atol=1e-6)


def test_with_weight_0_it_is_sac_n_to_the_bit(state, batch):
    ours, metrics = jax.jit(edac.update)(CONFIG.replace(diversity_weight=0.0), state, batch)
    fields = {name: getattr(CONFIG, name) for name in sac_n.Config.__dataclass_fields__}
    theirs, others = jax.jit(sac_n.update)(sac_n.Config(**fields), state, batch)
    for got, want in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if not jnp.issubdtype(got.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(got, want)
    assert set(metrics) - set(others) == {"similarity"}


def test_its_weight_turns_the_slopes_apart(state, batch):
    config = CONFIG.replace(diversity_weight=10.0, critic_learning_rate=3e-3)
    update, after = jax.jit(edac.update), state
    similarity = []
    for _ in range(30):
        after, metrics = update(config, after, batch)
        similarity.append(float(metrics["similarity"]))
    assert similarity[-1] < similarity[0] - 0.5


def test_it_values_untried_actions_lower_and_tried_ones_alike():
    """One step that earns the first number of the action; the log's second number is always 0.

    The slope along the second number is not determined, and the members are to disagree on it.
    """
    config = CONFIG.replace(
        actor_learning_rate=0.0, critic_learning_rate=3e-3, temperature_learning_rate=0.0
    )
    first = np.random.default_rng(0).uniform(-1.0, 1.0, 2000).astype(np.float32)
    log = Batch(
        observations=jnp.ones((2000, 1)),
        actions=jnp.stack([first, np.zeros_like(first)], axis=1),
        rewards=jnp.asarray(first),
        next_observations=jnp.ones((2000, 1)),
        terminations=jnp.ones(2000, bool),
    )
    tried, untried = jnp.array([[0.3, 0.0]]), jnp.array([[0.3, 1.0], [0.3, -1.0]])
    lanes = [config.replace(diversity_weight=weight) for weight in (0.0, 0.01)]
    lowest = []
    for state, _ in probes.train_lanes(edac, lanes, [log, log], steps=600):
        values = state.critic(jnp.ones((3, 1)), jnp.concatenate([tried, untried])).min(axis=0)
        lowest.append((float(values[0]), float(values[1:].max())))
    assert lowest[1][1] < lowest[0][1] - 1.0
    for value in lowest:
        assert value[0] == pytest.approx(0.3, abs=0.05)
