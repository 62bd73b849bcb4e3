"""ALVINN: the first network that drove by imitation (Pomerleau 1989, 1991).

One hidden layer of logistic units looks at a video image and a range image, and steers by a
population code: each of `num_units` output units means one curvature, from one end of the scale to
the other, and the target is a hill of activation around the driver's choice,

    L(theta) = sum_i (o_i - t_i)^2,

averaged over the batch. One more output says whether the road is lighter than its surroundings,
and is fed back as an input at the next frame. In training that input is the true answer. The
network could copy it to the output and ignore the road, so during the first `random_feedback_steps`
it is random (1989, section 3).

Observations are byte images (H, W, 1) whose last `range_rows` rows are the range image. Actions
are two numbers: the curvature on [-1, 1], and the driver's answer whether the road is lighter (+1)
or darker (-1), because the network learns both. The answer stays the same between two frames of a
drive. So an image's own answer can replace the previous frame's, and training needs only single
images.

Defaults are the network of 1989. :data:`VERSIONS` has that of 1991 too, which has 5 hidden units
and neither range nor feedback; its second action is not read and comes back as 0.

The papers do not print learning rates, the first weights or what is done to pixels. Ours: momentum
on mini-batches; each image standardised; small first weights and a negative bias of the outputs.
Without this bias the network learns to keep all 45 units silent, because most targets are near 0.
Not implemented: the buffer of 200 patterns that is balanced during driving (1991). Shifted views
are part of the data (`ddm.envs.road`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ddm import networks
from ddm.errors import InputError
from ddm.networks.alvinn import Perceptron
from ddm.ops import population
from ddm.types import (
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    NetworkFn,
    PRNGKey,
    PyTree,
    check_batch,
    check_continuous,
    choice,
    leaf,
    network,
    static,
)

NO_FEEDBACK_YET = 0.5  # the input before the first frame


class Config(Configuration):
    """Hyper-parameters of ALVINN; the defaults are the network of 1989."""

    # of gradient descent with momentum, for a batch of 8
    learning_rate: float = leaf(0.05, "[0, inf)")
    momentum: float = leaf(0.9, "[0, 1)")  # share of the last step that is kept
    # Gradient steps during which the feedback input is random: half of 40 epochs of 1200 images
    # in batches of 8 (1989: an early phase of unstated length).
    random_feedback_steps: int = leaf(3_000, "[0, inf)")
    # first bias of the output units; 0 invites the all-silent answer
    output_bias: float = leaf(-2.0, "(-inf, inf)")
    hidden_sizes: tuple[int, ...] = static((29,), "[1, inf)")  # logistic units; 1991: 5
    num_units: int = static(45, "[2, inf)")  # output units of the curvature's scale; 1991: 30
    # hill1989: 0.10 .32 .61 .89 1 .89 ... about the nearest unit; gaussian1991: exp(-d^2 / 10)
    # about the exact place; one_hot: the nearest unit alone. Cut off at the ends of the scale.
    target: str = choice(lambda: TARGETS, "hill1989")
    # squared_error of logistic units (both papers); cross_entropy: a softmax over the units
    # against the target as a distribution.
    loss: str = choice(lambda: LOSSES, "squared_error")
    # Deterministic action: highest (the unit, 1989), center_of_mass (of the hill about it, 1991).
    readout: str = choice(lambda: READOUTS, "highest")
    # last rows of the observation, which hold the range image
    range_rows: int = static(8, "[0, inf)")
    use_range: bool = static(True)  # look at the range image
    use_feedback: bool = static(True)  # learn the road's brightness and feed it back
    policy_network: NetworkFn | None = network()  # see `policy_network`


class State(struct.PyTreeNode):
    """Everything that training changes."""

    policy: networks.Trainable
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


class Outputs(NamedTuple):
    """Net inputs of the output units, before the logistic function."""

    units: jax.Array  # (..., num_units)
    lighter: jax.Array  # (..., 1), or (..., 0) without feedback


class Loss(NamedTuple):
    """How the units' net inputs (..., U) are read, and their loss."""

    activations: Callable[[jax.Array], jax.Array]
    per_row: Callable[[Outputs, jax.Array, jax.Array], jax.Array]


def batch_spec(config: Config) -> BatchSpec:
    """Images and the driver's answers."""
    del config
    return BatchSpec(fields=("observations", "actions"))


def policy_network(config: Config, action_size: int) -> Perceptron:
    """The network that a configuration describes.

    It maps inputs (..., I) to the net inputs (..., U + 1) of the units for the curvature and of the
    one for a lighter road; (..., U) without feedback. `init` also hands it `output_bias`.
    """
    del action_size  # always two
    return Perceptron(config.hidden_sizes, config.num_units + int(config.use_feedback))


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh network for images of the shape in `batch`.

    Raises:
      InputError: observations that are not images, or actions that are not two numbers.
    """
    _check(config, batch)
    key, params_key = jax.random.split(key)
    inputs = _inputs(config, batch.observations[:1], jnp.zeros(1, jnp.float32))
    perceptron = (config.policy_network or policy_network)(config, batch.actions.shape[-1])
    params = perceptron.init(params_key, inputs, config.output_bias)
    return State(
        policy=networks.trainable(perceptron, params, sgd),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step on the squared error of all outputs.

    Metrics: ``loss``, the mean over the batch; ``action_error``, the mean squared error of the
    curvature read out, on [-1, 1]; ``within_two_units``, the share of rows where it is at most
    two units off (the 1989 paper's score); and ``lighter_error``, the error rate of the answer
    about the road's brightness, 0 without feedback.
    """
    _check(config, batch)
    key, feedback_key = jax.random.split(state.key)
    curvatures, lighter = batch.actions[:, 0], (batch.actions[:, 1] > 0.0).astype(jnp.float32)
    targets = TARGETS[config.target](curvatures, config.num_units)
    guesses = jax.random.bernoulli(feedback_key, jnp.float32(0.5), lighter.shape)
    guesses = guesses.astype(jnp.float32)
    feedback = jnp.where(state.step < config.random_feedback_steps, guesses, lighter)
    inputs = _inputs(config, batch.observations, feedback)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        outputs = _outputs(config, state.policy.apply(params, inputs))
        loss = jnp.mean(LOSSES[config.loss].per_row(outputs, targets, lighter[:, None]))
        return loss, {"loss": loss, **_scores(config, outputs, curvatures, lighter)}

    policy, metrics = networks.minimize(
        loss_fn, state.policy, config.learning_rate, config.momentum
    )
    return state.replace(policy=policy, step=state.step + 1, key=key), metrics


def initial_policy_state(config: Config, state: State) -> PyTree:
    """The feedback before the first frame, () float32; the empty tuple without feedback."""
    del state
    return jnp.array(NO_FEEDBACK_YET, jnp.float32) if config.use_feedback else ()


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """Curvature by the readout, or of a unit drawn in proportion to its activation; and the answer.

    The policy state is the activation in [0, 1] of the unit for a lighter road, fed back at the
    next call; as the second action it is mapped to [-1, 1]. The empty tuple begins an episode.
    """
    begins = isinstance(policy_state, tuple)
    feedback = initial_policy_state(config, state) if begins else policy_state
    outputs = _outputs(config, state.policy(_inputs(config, observation, feedback)))
    activations = LOSSES[config.loss].activations(outputs.units)
    if deterministic:
        curvature = READOUTS[config.readout](activations)
    else:
        unit = jax.random.categorical(key, jnp.log(activations + 1e-12))
        curvature = population.value(unit.astype(jnp.float32), config.num_units)
    if not config.use_feedback:
        return jnp.stack([curvature, jnp.zeros_like(curvature)]), policy_state
    lighter = jax.nn.sigmoid(outputs.lighter[..., 0])
    return jnp.stack([curvature, 2.0 * lighter - 1.0]), lighter


def _inputs(config: Config, observations: jax.Array, feedback: jax.Array) -> jax.Array:
    """(..., I): video, range and feedback, in this order, of images (..., H, W, 1)."""
    pixels = observations[..., 0].astype(jnp.float32) / 255.0
    video_rows = pixels.shape[-2] - config.range_rows
    video, proximity = pixels[..., :video_rows, :], pixels[..., video_rows:, :]
    leading = pixels.shape[:-2]
    parts = [networks.standardize_images(video).reshape(*leading, -1)]
    if config.use_range:
        parts.append(proximity.reshape(*leading, -1) - 0.5)
    if config.use_feedback:
        parts.append(feedback[..., None])
    return jnp.concatenate(parts, axis=-1)


def _outputs(config: Config, outputs: jax.Array) -> Outputs:
    return Outputs(outputs[..., : config.num_units], outputs[..., config.num_units :])


def sgd(learning_rate: Any, momentum: Any = 0.0) -> optax.GradientTransformation:
    """Gradient descent with momentum."""
    return optax.sgd(learning_rate, momentum=momentum)


def _check(config: Config, batch: Batch) -> None:
    check_batch(batch, batch_spec(config), "alvinn")
    check_continuous(batch, "alvinn")
    shape, dtype = batch.observations.shape, batch.observations.dtype
    is_image = len(shape) == 4 and shape[-1] == 1 and dtype == jnp.uint8
    if not is_image or shape[1] <= config.range_rows:
        raise InputError(
            f"alvinn: batch.observations has shape {shape} and dtype {dtype}, expected byte "
            f"images (B, H, W, 1) with more than {config.range_rows} rows, the last of which are "
            "the range image"
        )
    if batch.actions.ndim != 2 or batch.actions.shape[1] != 2:
        raise InputError(
            f"alvinn: batch.actions has shape {batch.actions.shape}, expected (B, 2): a curvature, "
            "and +1 or -1 for a road that is lighter or darker than its surroundings"
        )


def _scores(
    config: Config, outputs: Outputs, curvatures: jax.Array, lighter: jax.Array
) -> dict[str, jax.Array]:
    found = READOUTS[config.readout](LOSSES[config.loss].activations(outputs.units))
    place = population.position(found, config.num_units)
    units = jnp.abs(place - population.nearest(curvatures, config.num_units))
    wrong = (outputs.lighter > 0.0) != (lighter[:, None] > 0.0)
    return {
        "action_error": jnp.mean(jnp.square(found - curvatures)),
        "within_two_units": jnp.mean(units < 2.5),
        "lighter_error": jnp.mean(wrong) if config.use_feedback else jnp.zeros((), jnp.float32),
    }


def _squared_error(outputs: Outputs, targets: jax.Array, lighter: jax.Array) -> jax.Array:
    errors = jnp.sum(jnp.square(jax.nn.sigmoid(outputs.units) - targets), axis=-1)
    answers = jnp.square(jax.nn.sigmoid(outputs.lighter) - lighter)
    return errors + jnp.sum(answers, axis=-1)


def _cross_entropy(outputs: Outputs, targets: jax.Array, lighter: jax.Array) -> jax.Array:
    shares = targets / jnp.sum(targets, axis=-1, keepdims=True)
    errors = optax.softmax_cross_entropy(outputs.units, shares)
    answers = optax.sigmoid_binary_cross_entropy(outputs.lighter, lighter)
    return errors + jnp.sum(answers, axis=-1)


TARGETS: dict[str, Callable[[jax.Array, int], jax.Array]] = {
    "hill1989": population.hill_target,
    "gaussian1991": population.gaussian_target,
    "one_hot": population.one_hot_target,
}
READOUTS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "highest": population.highest,
    "center_of_mass": population.center_of_mass,
}
LOSSES: dict[str, Loss] = {
    "squared_error": Loss(jax.nn.sigmoid, _squared_error),
    "cross_entropy": Loss(jax.nn.softmax, _cross_entropy),
}

VERSIONS: dict[str, Config] = {
    "1989": Config(),
    "1991": Config(
        learning_rate=0.02, hidden_sizes=(5,), num_units=30, target="gaussian1991",
        readout="center_of_mass", use_range=False, use_feedback=False,
    ),
}  # fmt: skip
