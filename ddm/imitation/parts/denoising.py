"""What policies that remove noise from chunks share: their networks, and the average that acts.

From Chi et al. 2023 (arXiv 2303.04137). What acts is a moving average of the parameters, not their
last value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm import networks, ops
from ddm.errors import InputError
from ddm.imitation.parts import chunks
from ddm.networks.denoisers import GROUPS
from ddm.types import Metrics, NetworkFn, PRNGKey, choice, leaf, network, static


class Config(chunks.Config):
    """Hyper-parameters; defaults are a small preset for vectors, with the authors' ratios."""

    # AdamW's step size; Chi et al.: 1e-4 with larger networks
    learning_rate: float = leaf(3e-4, "[0, inf)")
    weight_decay: float = leaf(1e-6, "[0, inf)")  # decoupled weight decay (AdamW); Chi et al.
    # the acting average spans about n^power of n updates; Chi et al.
    ema_power: float = leaf(0.75, "[0, inf)")
    ema_max: float = leaf(0.9999, "[0, 1]")  # ceiling of the average's decay; Chi et al.
    # frames To that the policy sees, the present one last; Chi et al.: 2
    observation_steps: int = static(2, "[1, inf)")
    # actions executed before a new chunk is drawn; Chi et al.: half
    execute_steps: int = static(4, "[1, inf)", at_most="chunk_size")
    denoiser: str = choice(lambda: DENOISERS, "mlp")  # the network
    hidden_sizes: tuple[int, ...] = static((256, 256, 256), "[1, inf)")  # mish layers of the mlp
    layer_norm: bool = static(True)  # in the mlp, before each activation; without, it learns slowly
    residual: bool = static(False)  # mlp of residual branches; layers of one size
    # channels of each level of the unet
    unet_widths: tuple[int, ...] = static((64, 128, 256), "[1, inf)")
    num_layers: int = static(8, "[1, inf)")  # of the transformer; Chi et al.: 8
    width: int = static(256, "[1, inf)")  # of the transformer's tokens; Chi et al.: 256
    num_heads: int = static(4, "[1, inf)")  # of the transformer; Chi et al.: 4
    # The transformer's actions do not see later ones (Chi et al.), so a chunk's may disagree.
    causal: bool = static(False)
    # in mlp and transformer; Chi et al.: 0.01 to 0.3
    dropout_rate: float = static(0.0, "[0, 1)")
    denoiser_network: NetworkFn | None = network()  # see `denoiser_network`


class State(chunks.State):
    """Everything that training changes, and the shapes that acting needs."""

    average: Any  # moving average of the policy's parameters, which acts


def denoiser_network(config: Config, action_size: int) -> networks.Denoiser:
    """The network that a configuration describes.

    It maps noisy chunks (B, Tp, A), levels (B,) and observations (B, To, *O) to (B, Tp, A). Its
    methods `encode` and `denoise` are the two halves of this. `networks.Denoiser("none", module)`
    makes such a network of a module that is called with chunks, levels and observations.

    Raises:
      InputError: sizes that do not fit the denoiser.
    """
    del action_size  # it is that of the noisy chunk
    return networks.Denoiser(config.encoder, DENOISERS[config.denoiser](config))


def init(config: Config, key: PRNGKey, window: chunks.Window) -> State:
    """A fresh policy for one row of a window."""
    key, params_key = jax.random.split(key)
    make = config.denoiser_network or denoiser_network
    denoiser = make(config, window.actions.shape[-1])
    levels = jnp.zeros(1, jnp.float32)
    params = denoiser.init(params_key, window.actions, levels, window.frames)
    return State(
        policy=networks.trainable(denoiser, params, networks.adamw),
        average=jax.tree.map(jnp.copy, params),
        observation=chunks.zeros_like_one(window.frames),
        action=chunks.zeros_like_one(window.actions),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def descend(
    config: Config, state: State, loss_fn: networks.LossFn, key: PRNGKey
) -> tuple[State, Metrics]:
    """One gradient step on a loss, and one of the average; `key` is for the next update."""
    rate = ops.cosine_decay(config.learning_rate, state.step, config.decay_steps)
    policy, metrics = networks.minimize(loss_fn, state.policy, rate, config.weight_decay)
    average = ops.averaging.average(
        state.average, policy.params, state.step, config.ema_power, config.ema_max
    )
    return state.replace(policy=policy, average=average, step=state.step + 1, key=key), metrics


def acting(state: State) -> networks.Trainable:
    """The network with the parameters that act."""
    return state.policy.replace(params=state.average)


def _mlp(config: Config) -> nn.Module:
    if not config.hidden_sizes or (config.residual and len(set(config.hidden_sizes)) > 1):
        raise InputError(
            f"{_name(config)}: hidden_sizes is {config.hidden_sizes}, expected at least one "
            "layer, and layers of one size with residual"
        )
    return networks.MLPDenoiser(
        config.hidden_sizes, config.layer_norm, config.residual, config.dropout_rate
    )


def _unet(config: Config) -> nn.Module:
    widths = config.unet_widths
    if not widths or any(width < 1 or width % GROUPS for width in widths):
        raise InputError(
            f"{_name(config)}: unet_widths is {widths}, expected multiples of {GROUPS}"
        )
    multiple = 2 ** (len(widths) - 1)
    if config.chunk_size % multiple:
        raise InputError(
            f"{_name(config)}: chunk_size is {config.chunk_size}, expected a multiple of "
            f"{multiple}: each of the {len(widths)} levels of unet_widths but the last halves the "
            "chunk"
        )
    return networks.UNetDenoiser(widths)


def _transformer(config: Config) -> nn.Module:
    if config.width % (2 * config.num_heads):
        raise InputError(
            f"{_name(config)}: width is {config.width}, expected a multiple of twice num_heads, "
            f"{2 * config.num_heads}"
        )
    return networks.TransformerDenoiser(
        config.num_layers, config.width, config.num_heads, config.dropout_rate, config.causal
    )


def _name(config: Config) -> str:
    """Of the algorithm, for messages."""
    return type(config).__module__.rpartition(".")[2]


DENOISERS: dict[str, Callable[[Config], nn.Module]] = {
    "mlp": _mlp,
    "unet": _unet,
    "transformer": _transformer,
}
