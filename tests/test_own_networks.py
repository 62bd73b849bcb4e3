"""A user's flax modules in place of the library's: the examples of the page, and every field."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
import sys
from types import ModuleType

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import data, networks
from ddm.configuration import own_networks
from ddm.errors import InputError
from ddm.policy_constraint import iql

KEY = jax.random.key(0)
PAGE = pathlib.Path(__file__).parent.parent / "docs" / "own_networks.md"
CQL, IQL = (
    # Small enough to compile fast; everything else is as it stands on the page.
    example.replace("1_000", "2")
    .replace("batch_size=256", "batch_size=4")
    .replace("= 256", "= 8")
    .replace("iql.Config(", "iql.Config(hidden_sizes=(8,), ")
    .replace("cql.Config(", "cql.Config(hidden_sizes=(8,), num_samples=2, ")
    for example in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
)


def _log(observations):
    random = np.random.default_rng(0)
    return data.from_arrays(
        observations,
        random.uniform(-1.0, 1.0, (len(observations), 2)).astype(np.float32),
        random.normal(size=len(observations)).astype(np.float32),
        terminations=np.arange(len(observations)) % 10 == 9,
    )


def _images():
    return _log(np.random.default_rng(1).integers(256, size=(20, 8, 8, 3), dtype=np.uint8))


def _run(example, log):
    """The names that an example defines."""
    names = {"log": log, "__name__": "example"}
    exec(compile(example, str(PAGE), "exec", dont_inherit=True), names)
    return names


@pytest.fixture(scope="module")
def residual():
    log = _log(np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32))
    return _run(CQL, log), log


def test_a_residual_mlp_is_cqls_critic(residual):
    names, log = residual
    critic = names["state"].critic
    assert critic.network == names["residual_critics"](names["config"], 2)
    assert hash(critic.network) == hash(names["residual_critics"](names["config"], 2))
    assert names["values"].shape == (2, 1)
    assert all(np.isfinite(value).all() for value in names["metrics"].values())
    observations = jnp.asarray(log.observations[:4])
    actions = jnp.asarray(log.actions[:12].reshape(4, 3, 2))
    values = critic(observations, actions)
    assert values.shape == (2, 4, 3)
    for i in range(3):
        np.testing.assert_allclose(values[:, :, i], critic(observations, actions[:, i]), atol=1e-5)


def test_its_members_differ_and_every_parameter_is_trained(residual):
    names, _ = residual
    critic = names["state"].critic
    assert not np.allclose(*names["values"])
    moments = jax.tree.leaves(critic.optimizer_state)
    per_parameter = [leaf for leaf in moments if jnp.ndim(leaf) > 0]
    assert len(per_parameter) == 2 * len(jax.tree.leaves(critic.params))
    assert all(np.abs(leaf).max() > 0.0 for leaf in per_parameter)
    moved = jax.tree.map(lambda a, b: np.any(a != b), critic.params, critic.target_params)
    assert all(jax.tree.leaves(moved))


def test_iql_learns_from_images_with_three_encoders():
    names = _run(IQL, _images())
    state = names["state"]
    assert names["action"].shape == (2,)
    assert np.abs(names["action"]).max() < 1.0
    for network in (state.actor, state.critic, state.value):
        first = network.params["params"]["Encoder_0"]["Conv_0"]["kernel"]
        assert first.shape == (3, 3, 3, 16)
        moments = [
            x for x in jax.tree.leaves(network.optimizer_state) if jnp.shape(x) == first.shape
        ]
        assert len(moments) == 2
        assert all(np.abs(moment).max() > 0.0 for moment in moments)  # a gradient reached it


def test_images_are_refused_while_a_network_reads_vectors():
    log = _images()
    batch = data.sample(log, jax.random.key(0), 1, iql.batch_spec(iql.Config()))
    names = _run(IQL.partition("\nconfig =")[0], log)
    config = iql.Config(actor_network=names["actor"], critic_network=names["critic"])
    with pytest.raises(InputError, match=r"read vectors.*unless you give value_network"):
        iql.init(config, jax.random.key(0), batch)


# Every network of every algorithm.


@functools.cache
def _own_class(kind):
    """Another class that computes the same: what a user's module may be."""
    return type(f"Own{kind.__name__}", (kind,), {})


def _as_own(network):
    fields = {field.name for field in dataclasses.fields(network)} - {"parent", "name"}
    return _own_class(type(network))(**{name: getattr(network, name) for name in fields})


def _every_network():
    for algorithm in contract.algorithms():
        for name in own_networks(algorithm.Config()):
            label = f"{contract.short_name(algorithm)}-{name}"
            marks = [contract.one_worker(algorithm)]
            if contract.contract_of(algorithm).slow:
                marks.append(pytest.mark.slow)
            yield pytest.param(algorithm, name, id=label, marks=marks)


def _library_factory(algorithm, name):
    """The function that a field stands in for: the algorithm's, or that of a module it uses."""
    modules = [algorithm, *(m for m in vars(algorithm).values() if isinstance(m, ModuleType))]
    for base in algorithm.Config.__mro__:
        modules.append(sys.modules[base.__module__])
    return next(getattr(module, name) for module in modules if hasattr(module, name))


@pytest.mark.parametrize(("algorithm", "name"), list(_every_network()))
def test_any_network_is_replaced_by_the_users(algorithm, name):
    """It is what `init` makes, `update` trains and `act` asks: their programs are traced."""
    factory = _library_factory(algorithm, name)
    context = contract.contract_of(algorithm).context.get(name, {})
    own = {name: lambda *sizes: _as_own(factory(*sizes))}
    own = contract.small_config(algorithm, **context, **own)
    batch = contract.make_batch(algorithm, own)
    state = jax.eval_shape(lambda key: algorithm.init(own, key, batch), jax.random.key(0))
    models = jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, networks.Trainable))
    found = " ".join(repr(getattr(model, "network", None)) for model in models)
    assert "Own" in found, found
    after, _ = jax.eval_shape(lambda state: algorithm.update(own, state, batch), state)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    jax.eval_shape(lambda state, key: contract.use(algorithm, own, state, batch, key), state, KEY)


def test_every_algorithm_with_a_network_lets_it_be_replaced():
    for algorithm in contract.algorithms():
        assert own_networks(algorithm.Config()) or contract.contract_of(algorithm).table, algorithm
