"""The shared pieces of Q-learning beside a cloned behaviour policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.errors import InputError
from ddm.policy_constraint import discrete_bcq
from ddm.policy_constraint.parts import discrete
from ddm.types import Batch

KEY = jax.random.key(0)
CONFIG = discrete_bcq.Config(hidden_sizes=(), num_actions=3, behavior_learning_rate=0.1)
# Two one-hot states; in the first, actions have the shares 3/4, 1/4, 0.
BATCH = Batch(
    observations=jnp.eye(2)[jnp.array([0, 0, 0, 0, 1, 1])], actions=jnp.array([0, 0, 0, 1, 2, 2])
)


def test_the_clone_finds_the_shares_of_the_log():
    clone = discrete.init_behavior(CONFIG, KEY, BATCH)
    step = jax.jit(lambda clone, _: discrete.behavior_step(CONFIG, clone, BATCH))
    clone, metrics = jax.lax.scan(step, clone, None, length=500)
    shares = np.asarray(jax.nn.softmax(clone.policy(jnp.eye(2))))
    np.testing.assert_allclose(shares[0, :2], [0.75, 0.25], atol=0.02)
    assert shares[1, 2] > 0.9
    assert metrics["behavior_loss"][-1] < metrics["behavior_loss"][0]


@pytest.mark.parametrize(
    ("config", "actions", "message"),
    [
        (CONFIG.replace(num_actions=0), BATCH.actions, "needs num_actions"),
        (CONFIG, jnp.zeros((6, 2)), "expected integers below num_actions=3"),
    ],
)
def test_what_is_not_discrete_is_refused(config, actions, message):
    with pytest.raises(InputError, match=f"test: .*{message}"):
        discrete.check(config, BATCH.replace(actions=actions), "test")


def test_only_a_clone_that_still_learns_is_reported():
    assert discrete.diagnose(CONFIG, {"behavior_progress": 0.0}) == []
    [sentence] = discrete.diagnose(CONFIG, {"behavior_progress": 1.5})
    assert "1.500 nats" in sentence
