"""IQL in one file: data, networks, losses and loop in sight, with nothing of ddm but its formulas.

    python experiments/from_scratch.py
    python experiments/from_scratch.py --log=my_log.npz

The log is an .npz file with `observations` (N, O), `actions` (N, A) in [-1, 1], `rewards` (N,),
`next_observations` (N, O) and `terminations` (N,). Without one, a clumsy walker makes it: a point
in a box that should go to (0.5, 0.5), and goes there only now and then. The policy that is learned
from its steps is then tried in the same box.

Kostrikov et al. 2021 (arXiv 2110.06169). The same method with all its options, lanes, checkpoints
and reports is `ddm.policy_constraint.iql`. Read this file to see how one is made, and begin yours
with a copy.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from flax import linen as nn

from ddm import ops

_LOG = flags.DEFINE_string("log", "", "Path of the .npz file; empty: the clumsy walker's.")
_STEPS = flags.DEFINE_integer("num_updates", 3_000, "Gradient steps.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything.", lower_bound=0)

BATCH, HIDDEN = 256, 64
DISCOUNT, EXPECTILE, INVERSE_TEMPERATURE, MAX_WEIGHT, TARGET_RATE = 0.97, 0.8, 10.0, 100.0, 0.01
OPTIMIZER = optax.adam(1e-3)
FIELDS = ("observations", "actions", "rewards", "next_observations", "terminations")
GOAL, SPEED, EPISODE = 0.5, 0.1, 40  # of the walker's box


# The data: a dict of arrays on the device.


def read_log(path: str) -> dict[str, jax.Array]:
    """The arrays of a log."""
    with np.load(path) as file:
        return {name: jnp.asarray(file[name], jnp.float32) for name in FIELDS}


def walk(policy: Any, random: np.random.Generator, episodes: int) -> dict[str, np.ndarray]:
    """Episodes in the box, (episodes * EPISODE, ...) rows; the reward is minus the distance."""
    place, rows = random.uniform(-1.0, 1.0, (episodes, 2)), []
    for _ in range(EPISODE):
        action = np.clip(policy(place), -1.0, 1.0)
        after = np.clip(place + SPEED * action, -1.0, 1.0)
        reward = -np.linalg.norm(after - GOAL, axis=1)
        rows.append((place, action, reward, after, np.zeros(episodes)))
        place = after
    columns = zip(*rows, strict=True)
    return {name: np.concatenate(column) for name, column in zip(FIELDS, columns, strict=True)}


# The networks.


class MLP(nn.Module):
    """Two hidden layers."""

    size: int

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Inputs (B, I_1), (B, I_2), ... to (B, size)."""
        hidden = jnp.concatenate(inputs, axis=-1)
        for _ in range(2):
            hidden = nn.relu(nn.Dense(HIDDEN)(hidden))
        return nn.Dense(self.size)(hidden)


class Networks(NamedTuple):
    """Parameters, or the states of their optimisers."""

    policy: Any
    value: Any
    critics: Any  # two, with a leading axis
    targets: Any = None


VALUE, CRITIC = MLP(1), MLP(1)
as_array = jnp.asarray  # flax may return more than an array; these networks do not


def values_of(params: Any, observations: jax.Array) -> jax.Array:
    """V(s), (B,)."""
    return as_array(VALUE.apply(params, observations))[:, 0]


def critics_of(params: Any, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """Q_i(s, a), (2, B)."""
    return as_array(jax.vmap(CRITIC.apply, (0, None, None))(params, observations, actions))[..., 0]


def mean_action(params: Any, observations: jax.Array) -> jax.Array:
    """The policy's mean, (B, A); its standard deviation is fixed, so its likelihood is a square."""
    size = params["params"]["Dense_2"]["bias"].shape[0]
    return jnp.tanh(as_array(MLP(size).apply(params, observations)))


# The update.


def update(
    params: Networks, moments: Networks, batch: dict[str, jax.Array]
) -> tuple[Networks, Networks, dict[str, jax.Array]]:
    """One gradient step of V, policy and critics, in this order, and of the targets."""
    observations, actions, rewards, next_observations, terminations = (batch[f] for f in FIELDS)
    target_q = jnp.min(critics_of(params.targets, observations, actions), axis=0)

    def value_loss(value):
        return jnp.mean(ops.expectile_loss(target_q - values_of(value, observations), EXPECTILE))

    losses = {}
    losses["value"], value, value_moments = descend(value_loss, params.value, moments.value)
    advantages = target_q - values_of(value, observations)
    weights = ops.weights.exponential(advantages, INVERSE_TEMPERATURE, MAX_WEIGHT)

    def policy_loss(policy):
        errors = jnp.sum(jnp.square(mean_action(policy, observations) - actions), axis=-1)
        return jnp.mean(weights * errors)

    losses["policy"], policy, policy_moments = descend(policy_loss, params.policy, moments.policy)
    targets = ops.td_target(rewards, DISCOUNT, terminations, values_of(value, next_observations))

    def critic_loss(critics):
        return ops.squared_td_error(critics_of(critics, observations, actions), targets)

    losses["critic"], critics, critic_moments = descend(
        critic_loss, params.critics, moments.critics
    )
    slow = ops.polyak(params.targets, critics, TARGET_RATE)
    moments = Networks(policy_moments, value_moments, critic_moments)
    return Networks(policy, value, critics, slow), moments, losses


def descend(loss_fn: Any, params: Any, moments: Any) -> tuple[jax.Array, Any, Any]:
    """One step of the optimiser: the loss before it, parameters and moments after it."""
    loss, gradients = jax.value_and_grad(loss_fn)(params)
    changes, moments = OPTIMIZER.update(gradients, moments, params)
    return loss, optax.apply_updates(params, changes), moments


# The loop.


@functools.partial(jax.jit, static_argnums=2)
def train(
    key: jax.Array, log: dict[str, jax.Array], steps: int
) -> tuple[Networks, dict[str, jax.Array]]:
    """All updates in one call of the device; put `jax.vmap` around it for several seeds."""
    policy_key, value_key, critic_key, sampling_key = jax.random.split(key, 4)
    row, action = log["observations"][:1], log["actions"][:1]
    critics = jax.vmap(CRITIC.init, (0, None, None))(jax.random.split(critic_key), row, action)
    policy = MLP(action.shape[-1]).init(policy_key, row)
    params = Networks(policy, VALUE.init(value_key, row), critics, critics)
    moments = Networks(*(OPTIMIZER.init(part) for part in params[:3]))

    def step(carry, number):
        key = jax.random.fold_in(sampling_key, number)
        rows = jax.random.randint(key, (BATCH,), 0, log["rewards"].shape[0])
        params, moments, losses = update(carry[0], carry[1], jax.tree.map(lambda x: x[rows], log))
        return (params, moments), losses

    (params, _), losses = jax.lax.scan(step, (params, moments), jnp.arange(steps))
    return params, losses


def main(_):
    """Read, train, and try the policy in the box where the log is the walker's."""
    random = np.random.default_rng(_SEED.value)

    def clumsy(place):
        return 0.3 * np.sign(GOAL - place) + random.normal(0.0, 0.6, place.shape)

    if _LOG.value:
        log = read_log(_LOG.value)
    else:
        log = {name: jnp.asarray(x, jnp.float32) for name, x in walk(clumsy, random, 250).items()}
    params, losses = train(jax.random.key(_SEED.value), log, _STEPS.value)
    for name, values in losses.items():
        print(f"{name} loss: {float(values[:100].mean()):.4f} to {float(values[-100:].mean()):.4f}")
    if not _LOG.value:
        policies = {"walker": clumsy, "IQL": lambda s: np.asarray(mean_action(params.policy, s))}
        for name, policy in policies.items():
            rewards = walk(policy, np.random.default_rng(1), 200)["rewards"]
            print(f"{name}: mean return {EPISODE * rewards.mean():.2f}")


if __name__ == "__main__":
    app.run(main)
