"""What the contract test needs: the algorithms it finds, small configurations, and batches.

Run as a script it checks, on 8 fake devices, that sharded updates equal unsharded ones: of all
algorithms, or of those that are named.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import pkgutil
import sys
from typing import Any

FAMILIES = ("imitation", "off_policy", "on_policy", "policy_constraint", "lower_bound")
SMALL = {"hidden_sizes": (8, 8), "num_samples": 2}
OBSERVATION_SIZE, ACTION_SIZE, NUM_ACTIONS = 4, 2, 3

# What a default configuration lacks, by the module's last name.
TABLES = ("tabular_bc", "q_learning", "fitted_q", "constrained_iteration", "spibb", "tabular_cql")
REQUIRED: dict[str, dict[str, Any]] = {name: {"num_actions": NUM_ACTIONS} for name in TABLES}
# And what is too large in it.
REQUIRED["history_bc"] = {
    "width": 8, "num_layers": 2, "observation_steps": 2, "segment_steps": 3, "burn_in": 1,
}  # fmt: skip
REQUIRED["act"] = {
    "width": 8, "num_heads": 4, "num_layers": 1, "chunk_size": 3, "execute_steps": 3,
    "latent_dim": 2,
}  # fmt: skip
REQUIRED["autoregressive"] = {
    "decoder": "mlp", "width": 8, "num_heads": 4, "num_layers": 2, "num_bins": 8,
    "warmup_steps": 2,
}  # fmt: skip
REQUIRED["implicit_bc"] = {"width": 8, "num_negatives": 4, "langevin_steps": 3}
REQUIRED["awr"] = {"window": 3}
REQUIRED["bcq"] = {
    "vae_hidden_sizes": (8, 8), "num_target_samples": 2, "num_eval_samples": 3,
    "perturbation": 0.5,
}  # fmt: skip
REQUIRED["discrete_bcq"] = {"num_actions": NUM_ACTIONS, "threshold": 0.999}
REQUIRED["spibb_dqn"] = {
    "num_actions": NUM_ACTIONS, "dataset_size": 8, "cell_size": 100.0, "hash_bits": 4,
}  # fmt: skip
REQUIRED["bear"] = {
    "vae_hidden_sizes": (8, 8), "num_target_samples": 2, "num_eval_samples": 3,
    "num_mmd_samples": 2, "warmup_steps": 2, "bandwidth": 1.0,
}  # fmt: skip
REQUIRED["kl_control"] = {
    "num_actions": NUM_ACTIONS, "prior_steps": 1, "learning_rate": 0.1, "target_rate": 0.5,
    "embedding_size": 4,
}  # fmt: skip
REQUIRED["brac"] = {"warmup_steps": 2, "num_eval_samples": 3}


def pair_features(observations: Any) -> Any:
    """Features (..., A, A * O) of every action: the observation in the action's own columns."""
    import jax.numpy as jnp

    columns = jnp.eye(NUM_ACTIONS, dtype=observations.dtype)
    pairs = jnp.einsum("ab,...o->...abo", columns, observations)
    return pairs.reshape(*pairs.shape[:-2], -1)


def standard_normal(observations: Any, actions: Any) -> Any:
    """Log-density (N, B) of actions (N, B, A) of a demonstrator, up to a constant."""
    return -0.5 * (actions**2).sum(axis=-1)


# Variants beside the default configuration, by the module's last name.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "act": [
        {"temporal_ensemble": True, "latent": "sample"},
        {"encoder": "conv", "observation_steps": 2, "dropout_rate": 0.0},
    ],
    "alvinn": [
        {
            "target": "gaussian1991",
            "readout": "center_of_mass",
            "use_range": False,
            "use_feedback": False,
        },
        {"target": "one_hot", "loss": "cross_entropy"},
    ],
    "autoregressive": [
        {"decoder": "transformer", "num_layers": 1, "targets": "soft", "decode": "dither"},
        {
            "decoder": "lstm",
            "chunk_size": 3,
            "execute_steps": 2,
            "observation_steps": 2,
            "encoder": "conv",
        },
    ],
    "awac": [{"weight": "softmax"}, {"num_actions": NUM_ACTIONS}],
    "awr": [{"num_actions": NUM_ACTIONS}],
    "bc": [
        {"head": "mse"},
        {"head": "tanh_gaussian"},
        {"head": "categorical", "num_actions": NUM_ACTIONS},
        {"head": "mixture", "num_components": 2},
        {"head": "linear_gaussian"},
        {"head": "tabular", "num_actions": NUM_ACTIONS},
        {"head": "linear_softmax", "num_actions": NUM_ACTIONS, "features": pair_features},
        {"encoder": "conv"},
    ],
    "brac": [
        {"divergence": "mmd", "adaptive": True, "value_penalty": False},
        {"divergence": "kl_dual", "divergence_steps": 2},
    ],
    "constrained_iteration": [
        {"constraint": "none"},
        {"constraint": "kl"},
        {"constraint": "kl_penalty"},
        {"constraint": "total_variation"},
    ],
    "cql": [{"lagrange": True}, {"max_target_backup": True}],
    "crr": [
        {"weight": "exponential", "baseline": "max", "num_critics": 2},
        {"num_actions": NUM_ACTIONS},
    ],
    "cvae": [
        {"prior": "learned", "reconstruction": "mse"},
        {"prior": "mixture", "reconstruction": "l1", "num_components": 2},
        {"encoder": "conv"},
    ],
    "diffusion": [
        {
            "denoiser": "transformer",
            "num_layers": 1,
            "width": 8,
            "num_heads": 2,
            "dropout_rate": 0.5,
            "sampler": "ddpm",
            "prediction": "v",
        }
    ],
    "flow_matching": [{"encoder": "conv", "solver": "midpoint", "residual": True}],
    "history_bc": [
        {"history": "stack", "head": "categorical", "num_actions": 3, "previous_actions": True},
        {"history": "transformer", "dropout_rate": 0.5, "history_dropout": 0.5},
        {"previous_actions": True, "cell": "lstm", "supervise": "last", "reset_every": 2},
    ],
    "implicit_bc": [{"negatives": "langevin", "gradient_penalty": True, "inference": "langevin"}],
    "iql": [{"dropout_rate": 0.5}, {"num_actions": NUM_ACTIONS}],
    "one_step": [{"num_actions": NUM_ACTIONS}],
    "kl_control": [
        {"form": "q", "network": "gru", "num_tokens": 5},
        {"dropout_rate": 0.5, "target_samples": 2},
    ],
    "policy_gradient": [{"head": "tabular", "num_actions": NUM_ACTIONS, "entropy_weight": 0.1}],
    "reverse_kl": [
        {"ratio": "known", "expert_log_prob": standard_normal, "head": "mixture"},
        {"head": "categorical", "num_actions": NUM_ACTIONS},
    ],
    "spibb": [{"bounded": True}],
    "spibb_dqn": [{"count": "one_hot", "behavior": "counted", "double_q": True}],
}


# Algorithms whose observations are images, and their shapes; or whose actions have a fixed size.
IMAGES: dict[str, tuple[int, ...]] = {"alvinn": (38, 32, 1)}
ACTION_SIZES: dict[str, int] = {"alvinn": 2}

# Algorithms that compile for minutes here: with transformers, or with many structural fields.
MANY_PROGRAMS = {
    "act", "autoregressive", "cvae", "diffusion", "flow_matching", "history_bc", "implicit_bc",
    "reverse_kl",
}  # fmt: skip

# With one network and with target networks; the others are sharded by `make test-all`.
SHARDED = ("bc", "td3")

# Policies without a mode: also their deterministic form draws, only with less noise.
DRAWING: set[str] = {"diffusion", "flow_matching", "implicit_bc"}


def algorithms() -> list[Any]:
    """Every module of the algorithm folders that has an `update`."""
    found = []
    for family in FAMILIES:
        package = importlib.import_module(f"ddm.{family}")
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"ddm.{family}.{info.name}")
            if hasattr(module, "update"):
                found.append(module)
    return found


def short_name(algorithm: Any) -> str:
    return algorithm.__name__.rpartition(".")[2]


def small_config(algorithm: Any, **overrides: Any) -> Any:
    """The default configuration with networks that compile fast, and with what it lacks."""
    names = {field.name for field in dataclasses.fields(algorithm.Config)}
    small = {name: value for name, value in SMALL.items() if name in names}
    return algorithm.Config().replace(**small | REQUIRED.get(short_name(algorithm), {}) | overrides)


def config_with(algorithm: Any, **overrides: Any) -> Any:
    """A small configuration with these fields: that of a variant, if one has their static ones.

    What is compiled for the variant then serves here too.
    """
    leaves = {
        field.name
        for field in dataclasses.fields(algorithm.Config)
        if field.metadata.get("pytree_node", True)
    }
    static = {name: value for name, value in overrides.items() if name not in leaves}
    for variant in [{}, *VARIANTS.get(short_name(algorithm), [])]:
        if static.items() <= variant.items():
            return small_config(algorithm, **variant | overrides)
    return small_config(algorithm, **overrides)


def cases() -> list[Any]:
    """(algorithm, config) for the default and each variant, as pytest parameters."""
    import pytest

    parameters = []
    for algorithm in algorithms():
        name = short_name(algorithm)
        for overrides in [{}, *VARIANTS.get(name, [])]:
            label = "-".join(
                [name, *(f"{k}={getattr(v, '__name__', v)}" for k, v in overrides.items())]
            )
            config = small_config(algorithm, **overrides)
            marks = [one_worker(algorithm)]
            if name in MANY_PROGRAMS:
                marks.append(pytest.mark.slow)
            elif overrides:
                marks.append(pytest.mark.newest)
            parameters.append(pytest.param(algorithm, config, id=label, marks=marks))
    return parameters


def one_worker(algorithm: Any) -> Any:
    """Runs all tests of an algorithm in one process, so that they share compiled functions."""
    import pytest

    return pytest.mark.xdist_group(algorithm.__name__)


def make_batch(algorithm: Any, config: Any, rows: int = 8, seed: int = 0) -> Any:
    """A batch of random rows, or windows; `rows` for each mini-batch of the algorithm."""
    import jax.numpy as jnp
    import numpy as np

    from ddm.types import Batch

    spec = algorithm.batch_spec(config)
    leading = (rows * spec.minibatches,) + (() if spec.window is None else (spec.window,))
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return random.normal(size=leading + shape).astype(np.float32)

    if getattr(config, "num_actions", 0) > 0:
        actions = random.integers(NUM_ACTIONS, size=leading, dtype=np.int32)
    else:
        actions = np.tanh(normal(ACTION_SIZES.get(short_name(algorithm), ACTION_SIZE)))
    next_observations = normal(OBSERVATION_SIZE)
    image = IMAGES.get(short_name(algorithm))
    if image is not None or getattr(config, "encoder", "none") == "conv":
        shape = leading + (image or (8, 8, 1))
        observations = random.integers(256, size=shape, dtype=np.uint8)
    elif spec.one_hot_observations:
        states = random.integers(2, size=(2, *leading))  # few, so that counts differ
        observations, next_observations = np.eye(OBSERVATION_SIZE, dtype=np.float32)[states]
    else:
        observations = normal(OBSERVATION_SIZE)
    every_field = {
        "observations": observations,
        "actions": actions,
        "rewards": normal(),
        "next_observations": next_observations,
        "terminations": random.random(leading) < 0.3,
        "truncations": np.zeros(leading, bool),
        "next_actions": actions,
        "returns_to_go": normal(),
        "initial_observations": observations[::-1],
    }
    if spec.window is not None:
        # As at an episode's end, where a window's last places are beyond it.
        lengths = random.integers(spec.history + 1, spec.window + 1, size=(leading[0], 1))
        every_field["mask"] = np.arange(spec.window) < lengths
    return Batch(**{name: jnp.asarray(every_field[name]) for name in spec.fields})


def first_observation(algorithm: Any, config: Any, batch: Any) -> Any:
    """One observation, as `act` gets it."""
    windows = algorithm.batch_spec(config).window is not None
    return batch.observations[0, 0] if windows else batch.observations[0]


@functools.cache
def jitted_update(algorithm: Any) -> Any:
    """One compiled `update` for all tests of an algorithm; the config's leaves are arguments."""
    import jax

    return jax.jit(algorithm.update)


@functools.cache
def jitted_init(algorithm: Any) -> Any:
    import jax

    return jax.jit(algorithm.init)


@functools.cache
def jitted_act(algorithm: Any) -> Any:
    """One compiled function for both forms of `act`: its result is (deterministic, drawn)."""
    import jax

    def act(*arguments: Any) -> Any:
        return tuple(algorithm.act(*arguments, deterministic=form) for form in (True, False))

    return jax.jit(act)


def check_sharded(algorithm: Any) -> None:
    """Eight lanes on eight devices give what each gives alone."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    config = small_config(algorithm)
    batch = make_batch(algorithm, config)
    lanes = [jitted_init(algorithm)(config, jax.random.key(seed), batch) for seed in range(8)]
    states = jax.tree.map(lambda *rows: jnp.stack(rows), *lanes)
    update = jax.jit(jax.vmap(algorithm.update, (None, 0, None)))
    mesh = Mesh(np.array(jax.devices()), ("lanes",))
    sharded_states = jax.device_put(states, NamedSharding(mesh, PartitionSpec("lanes")))
    sharded, _ = update(config, sharded_states, batch)
    assert len(sharded.step.sharding.device_set) == 8, "the update gathered the lanes"
    expected, _ = update(config, states, batch)
    for got, want in zip(jax.tree.leaves(sharded), jax.tree.leaves(expected), strict=True):
        if jax.dtypes.issubdtype(got.dtype, jax.dtypes.prng_key):
            got, want = jax.random.key_data(got), jax.random.key_data(want)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"
    for each in algorithms():
        if len(sys.argv) > 1 and short_name(each) not in sys.argv[1:]:
            continue
        check_sharded(each)
        print(f"{short_name(each)} sharded")
    sys.exit(0)
