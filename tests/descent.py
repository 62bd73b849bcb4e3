"""Updates by hand: parameters in the middle of training, and AdamW's step in numpy.

Fresh parameters hide mistakes: biases are zero, targets equal what they follow, and Adam's first
step has the size of the learning rate whatever the size of the gradient.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddm import networks


def perturbed(tree: Any, seed: int = 0, scale: float = 0.3) -> Any:
    """A tree of float arrays with normal noise of this scale on every number."""
    random = np.random.default_rng(seed)
    noisy = lambda x: x + jnp.asarray(scale * random.normal(size=x.shape), x.dtype)  # noqa: E731
    return jax.tree.map(noisy, tree)


def midway(model: networks.Trainable, seed: int = 0, updates: int = 3) -> networks.Trainable:
    """A model with perturbed parameters and Adam's moments as after some updates."""
    first = perturbed(jax.tree.map(jnp.zeros_like, model.params), seed + 1, scale=0.1)
    second = jax.tree.map(lambda x: jnp.square(x) + 1e-4, perturbed(first, seed + 2, scale=0.1))
    state = optax.tree_utils.tree_set(
        model.optimizer_state, mu=first, nu=second, count=jnp.int32(updates)
    )
    return model.replace(params=perturbed(model.params, seed), optimizer_state=state)


def adamw(
    model: networks.Trainable, gradients: Any, learning_rate: float, weight_decay: float = 0.0
) -> Any:
    """The parameters after one step of AdamW, in numpy."""
    get = lambda name: optax.tree_utils.tree_get(model.optimizer_state, name)  # noqa: E731
    count = int(get("count")) + 1

    def step(params: Any, gradient: Any, first: Any, second: Any) -> np.ndarray:
        params, gradient, first, second = (
            np.asarray(x, np.float64) for x in (params, gradient, first, second)
        )
        first = (0.9 * first + 0.1 * gradient) / (1.0 - 0.9**count)
        second = (0.999 * second + 0.001 * gradient**2) / (1.0 - 0.999**count)
        return params - learning_rate * (first / (np.sqrt(second) + 1e-8) + weight_decay * params)

    return jax.tree.map(step, model.params, gradients, get("mu"), get("nu"))


def assert_close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Trees of one structure agree."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, one), two in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(
            one, two, rtol=1e-4, atol=tolerance, err_msg=jax.tree_util.keystr(path)
        )


def mlp(params: Any, inputs: jax.Array, activation: Any = jax.nn.relu) -> jax.Array:
    """A perceptron of `networks.MLP`'s parameters, without layer norm."""
    hidden = inputs
    for index in range(len(params) - 1):
        layer = params[f"hidden_{index}"]
        hidden = activation(hidden @ layer["kernel"] + layer["bias"])
    return hidden @ params["output"]["kernel"] + params["output"]["bias"]
