"""ALVINN's targets and readouts by hand, what its feedback learns, and what one step does."""

from __future__ import annotations

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import networks
from ddm.envs import road
from ddm.errors import InputError
from ddm.imitation import alvinn
from ddm.types import Batch

CONTRACT = contract.Contract(
    variants=[
        {
            "target": "gaussian1991",
            "readout": "center_of_mass",
            "use_range": False,
            "use_feedback": False,
        },
        {"target": "one_hot", "loss": "cross_entropy"},
    ],
    other={
        "random_feedback_steps": 2,
        "num_units": 30,
        "target": "gaussian1991",
        "loss": "cross_entropy",
        "readout": "center_of_mass",
        "range_rows": 4,
    },
    observation_shape=(38, 32, 1),
    action_size=2,
)

INIT, UPDATE = jax.jit(alvinn.init), jax.jit(alvinn.update)
HILL = [0.10, 0.32, 0.61, 0.89, 1.0, 0.89, 0.61, 0.32, 0.10]


DEMONSTRATE = jax.jit(road.demonstrations, static_argnums=(1, 2))


def batch(rows, seed=0, **changes):
    """Images of varied roads; curvatures on [-1, 1] and the answers."""
    images, actions = DEMONSTRATE(jax.random.key(seed), rows, road.VARIED)
    actions = actions / jnp.array([road.MAX_CURVATURE, 1.0])
    return Batch(observations=images, actions=actions).replace(**changes)


# Targets.


def test_the_hill_of_1989():
    target = alvinn.TARGETS["hill1989"](jnp.array([0.0, 0.3 / 22, 1.0, -1.0 + 2.0 / 22]), 45)
    np.testing.assert_allclose(target[0, 18:27], HILL, rtol=1e-6)
    assert float(target[0].sum()) == pytest.approx(4.84)
    np.testing.assert_array_equal(target[1], target[0])  # about the nearest unit
    np.testing.assert_allclose(target[2, 40:], HILL[:5], rtol=1e-6)  # cut off, not wrapped
    assert float(target[2, :40].sum()) == 0.0
    np.testing.assert_allclose(target[3, :7], HILL[2:], rtol=1e-6)
    # Close to exp(-d^2 / 8), but for its foot.
    np.testing.assert_allclose(HILL[1:8], np.exp(-(np.arange(-3, 4) ** 2) / 8.0), atol=0.01)


def test_the_gaussian_of_1991_is_about_the_exact_place():
    curvature = 2.0 * 14.25 / 29.0 - 1.0
    target = alvinn.TARGETS["gaussian1991"](jnp.array([curvature]), 30)
    distances = np.arange(30) - 14.25
    np.testing.assert_allclose(target[0], np.exp(-(distances**2) / 10.0), atol=1e-6)


def test_one_unit():
    target = alvinn.TARGETS["one_hot"](jnp.array([-1.0, 0.5]), 5)
    np.testing.assert_array_equal(target, [[1, 0, 0, 0, 0], [0, 0, 0, 1, 0]])


# Readouts.


def test_readouts_by_hand():
    activations = jnp.zeros(45).at[30:33].set(jnp.array([0.5, 1.0, 0.9])).at[5].set(0.95)
    highest = alvinn.READOUTS["highest"](activations)
    assert highest == pytest.approx(2.0 * 31 / 44 - 1.0)
    center = alvinn.READOUTS["center_of_mass"](activations)  # unit 5 is another hill
    place = (0.5 * 30 + 31 + 0.9 * 32) / 2.4
    assert center == pytest.approx(2.0 * place / 44 - 1.0, rel=1e-5)


@pytest.mark.parametrize("target", alvinn.TARGETS)
def test_readouts_undo_targets(target):
    curvatures = jnp.linspace(-0.8, 0.8, 50)
    activations = alvinn.TARGETS[target](curvatures, 45)
    found = alvinn.READOUTS["highest"](activations)
    assert float(jnp.abs(found - curvatures).max()) <= 1.0 / 44 + 1e-5  # half a unit
    center = alvinn.READOUTS["center_of_mass"](activations)
    bound = 0.2 if target == "gaussian1991" else 0.5  # units; the hill knows no fractions
    assert float(jnp.abs(center - curvatures).max()) <= bound * 2.0 / 44 + 1e-5


# Inputs and the loss.


def test_images_are_standardised_one_by_one():
    images = jnp.stack([jnp.arange(6.0).reshape(2, 3), 0.1 * jnp.arange(6.0).reshape(2, 3)])
    found = networks.standardize_images(images)
    expected = (np.arange(6) - 2.5) / np.sqrt(35 / 12)
    np.testing.assert_allclose(found.reshape(2, 6), [expected, expected], rtol=1e-5)
    flat = networks.standardize_images(jnp.full((3, 3), 0.7))
    np.testing.assert_allclose(flat, np.zeros((3, 3)), atol=1e-4)


def _untrained(config, rows=8, **changes):
    data = batch(rows, **changes)
    return INIT(config, jax.random.key(0), data), data


@pytest.mark.parametrize(
    ("version", "inputs", "hidden", "outputs"), [("1989", 1217, 29, 46), ("1991", 960, 5, 30)]
)
def test_sizes_are_the_published_ones(version, inputs, hidden, outputs):
    state, _ = _untrained(alvinn.VERSIONS[version])
    shapes = jax.tree.map(jnp.shape, state.policy.params)["params"]
    assert shapes["hidden_0"] == {"kernel": (inputs, hidden), "bias": (hidden,)}
    assert shapes["output"] == {"kernel": (hidden, outputs), "bias": (outputs,)}
    assert float(jnp.abs(state.policy.params["params"]["hidden_0"]["kernel"]).max()) <= 0.05
    np.testing.assert_array_equal(state.policy.params["params"]["output"]["bias"], -2.0)


def _silenced(state, bias):
    """The same state with outputs that do not depend on the input."""
    output = state.policy.params["params"]["output"]
    output = {"kernel": jnp.zeros_like(output["kernel"]), "bias": bias}
    params = {"params": {**state.policy.params["params"], "output": output}}
    return state.replace(policy=state.policy.replace(params=params))


def test_the_squared_error_by_hand():
    config = alvinn.Config()
    state, data = _untrained(config, 2, actions=jnp.array([[0.0, 1.0], [1.0, -1.0]]))
    # All 46 outputs are 1 / 2: 45 units against a whole hill and against half of one.
    _, metrics = UPDATE(config, _silenced(state, jnp.zeros(46)), data)
    half = np.array(HILL[:5])
    whole = 36 * 0.25 + np.square(np.array(HILL) - 0.5).sum()
    cut = 40 * 0.25 + np.square(half - 0.5).sum()
    assert metrics["loss"] == pytest.approx((whole + cut) / 2 + 0.25, rel=1e-5)
    # The first unit is the highest of equals: 22 and 44 units off.
    assert metrics["action_error"] == pytest.approx((1.0 + 4.0) / 2)
    assert metrics["within_two_units"] == 0.0
    assert metrics["lighter_error"] == 0.5


def test_the_cross_entropy_by_hand():
    config = alvinn.Config(loss="cross_entropy", target="one_hot")
    state, data = _untrained(config, 2, actions=jnp.array([[0.0, 1.0], [-1.0, 1.0]]))
    bias = jnp.zeros(46).at[0].set(np.log(11.0)).at[45].set(np.log(3.0))
    _, metrics = UPDATE(config, _silenced(state, bias), data)
    # Probabilities 11 / 55 of the first unit, 1 / 55 of the others, 3 / 4 of a lighter road.
    expected = (np.log(55.0) + np.log(5.0)) / 2 + np.log(4.0 / 3.0)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["within_two_units"] == 0.5
    assert metrics["lighter_error"] == 0.0


def test_a_drawn_unit_follows_the_activations():
    config = alvinn.Config(num_units=3, use_feedback=False)
    state, data = _untrained(config)
    logit = jnp.log(jnp.array([0.2, 0.4, 0.2]) / (1 - jnp.array([0.2, 0.4, 0.2])))
    state = _silenced(state, logit)
    keys = jax.random.split(jax.random.key(0), 2_000)
    act = lambda key: alvinn.act(config, state, data.observations[0], key)[0]  # noqa: E731
    actions = np.asarray(jax.jit(jax.vmap(act))(keys))
    shares = [(actions[:, 0] == value).mean() for value in (-1.0, 0.0, 1.0)]
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.04)
    np.testing.assert_array_equal(actions[:, 1], 0.0)


# Feedback.


@pytest.fixture(scope="module")
def blind():
    """Networks of fogged cameras: fed with coin flips throughout, and with the true answer."""
    signs = jnp.sign(jax.random.normal(jax.random.key(3), (400,)))
    actions = jnp.stack([jnp.zeros(400), signs], axis=-1)
    data = Batch(observations=jnp.full((400, 38, 32, 1), 128, jnp.uint8), actions=actions)

    @jax.jit
    def train(config):
        def step(state, start):
            rows = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, 8), data)
            return alvinn.update(config, state, rows)[0], None

        state = alvinn.init(config, jax.random.key(0), data)
        return jax.lax.scan(step, state, jnp.arange(800) * 8 % 400)[0]

    return {
        name: train(alvinn.Config(random_feedback_steps=steps))
        for name, steps in (("random", 10**6), ("true", 0))
    }


def _answers(state, images, feedback):
    """Activations of the unit for a lighter road."""
    act = lambda image, fed: alvinn.act(alvinn.Config(), state, image, jax.random.key(0), fed)  # noqa: E731
    return jax.jit(jax.vmap(act))(images, feedback)[1]


def test_random_feedback_breaks_copying(blind):
    fog = jnp.full((2, 38, 32, 1), 128, jnp.uint8)
    copied = _answers(blind["true"], fog, jnp.array([0.0, 1.0]))
    assert copied[0] < 0.2
    assert copied[1] > 0.8
    # Where copying earned nothing, the answer is the share of lighter roads, whatever is fed.
    guessed = _answers(blind["random"], fog, jnp.array([0.0, 1.0]))
    assert abs(guessed[1] - guessed[0]) < 0.1
    images = batch(200, seed=1).observations
    fed = jax.random.bernoulli(jax.random.key(5), shape=(200,)).astype(jnp.float32)
    assert abs(np.corrcoef(_answers(blind["random"], images, fed), fed)[0, 1]) < 0.3


def test_the_answer_is_fed_back(blind):
    config, state, image = alvinn.Config(), blind["true"], jnp.full((38, 32, 1), 128, jnp.uint8)
    act = jax.jit(lambda memory: alvinn.act(config, state, image, jax.random.key(0), memory))
    memory = alvinn.initial_policy_state(config, state)
    assert (memory.shape, memory.dtype, memory) == ((), jnp.float32, 0.5)
    action, after = act(jnp.float32(0.9))
    assert action[1] == pytest.approx(2.0 * float(after) - 1.0, abs=1e-6)
    for start, end in ((0.9, 0.8), (0.1, -0.8)):  # in the fog it believes what it said before
        memory = jnp.float32(start)
        for _ in range(5):
            action, memory = act(memory)
        assert action[1] * np.sign(end) > abs(end)
    assert alvinn.initial_policy_state(alvinn.VERSIONS["1991"], state) == ()


def test_feedback_is_random_exactly_for_the_first_steps():
    data = batch(8)

    def after(steps, count):
        config = alvinn.Config(random_feedback_steps=steps)
        state = INIT(config, jax.random.key(0), data)
        for _ in range(count):
            state, _ = UPDATE(config, state, data)
        return state.policy.params["params"]["hidden_0"]["kernel"][-1]

    np.testing.assert_array_equal(after(1, 1), after(5, 1))
    assert not np.array_equal(after(0, 1), after(1, 1))
    assert not np.array_equal(after(1, 2), after(2, 2))


# What is refused.


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ({"target": "mountain"}, {}, "target=mountain is unknown; choose one of hill1989, gauss"),
        ({"loss": "l1"}, {}, "loss=l1 is unknown; choose one of squared_error"),
        ({"readout": "mean"}, {}, "readout=mean is unknown; choose one of highest"),
        ({}, {"observations": jnp.zeros((8, 38, 32))}, r"observations has shape \(8, 38, 32\)"),
        ({}, {"observations": jnp.zeros((8, 38, 32, 1))}, "dtype float32, expected byte images"),
        ({"range_rows": 38}, {}, "images .* with more than 38 rows"),
        ({}, {"actions": jnp.zeros((8, 1))}, r"actions has shape \(8, 1\), expected \(B, 2\)"),
        ({}, {"actions": jnp.zeros((8, 2), jnp.int32)}, "dtype int32, expected .* real vectors"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(config, changes, message):
    with pytest.raises(InputError, match=f"alvinn: .*{message}"):
        alvinn.init(alvinn.Config(**config), jax.random.key(0), batch(8).replace(**changes))
