"""Updates per second of every algorithm, beside the floor that its matrix products set.

    python benchmarks/throughput.py

The floor counts the products of an update from its layers, and times exactly these, at their
shapes, in the same process, in turns with the update. The fraction of the floor says how much of
an update is matrix products; the rest is element-wise work, optimisers, random numbers, gathers.
Batches are drawn from a dataset inside the compiled loop, as in a run.
"""

from __future__ import annotations

import collections
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import timing
from absl import app, flags

from ddm import data, runner
from ddm.imitation import bc
from ddm.lower_bound import cql
from ddm.off_policy import sac, td3
from ddm.policy_constraint import (
    algae_dice,
    awac,
    awr,
    bcq,
    bear,
    brac,
    crr,
    discrete_bcq,
    iql,
    kl_control,
    one_step,
    rebrac,
    spibb_dqn,
    td3_bc,
)

_BATCH = flags.DEFINE_integer("batch_size", 256, "Rows of one gradient step.")
_ONLY = flags.DEFINE_list("only", [], "Names of algorithms; empty: all.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Measurements; the median counts.")
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Length of one measurement.")
_CSV = flags.DEFINE_string("csv", "", "File for the table, beside the screen.")

HIDDEN = (256, 256)


class Sizes(NamedTuple):
    """Numbers in an observation and in an action."""

    observation: int
    action: int

    @property
    def pair(self) -> int:
        """What a critic reads."""
        return self.observation + self.action


SIZES = Sizes(observation=17, action=6)

# One product: (members, rows, inner, columns). A forward pass takes one product a layer, its
# gradient one more for the kernel, and one more for the inputs of every layer but the first.
Product = tuple[int, int, int, int]
Products = Iterator[tuple[Product, float]]  # and how many of each


def forward(
    rows: int,
    inputs: int,
    outputs: int,
    members: int = 1,
    times: float = 1.0,
    *,
    hidden: tuple[int, ...] = HIDDEN,
) -> Products:
    """Products of a forward pass through a perceptron."""
    sizes = (inputs, *hidden, outputs)
    for inner, columns in itertools.pairwise(sizes):
        yield (members, rows, inner, columns), times


def backward(
    rows: int,
    inputs: int,
    outputs: int,
    members: int = 1,
    times: float = 1.0,
    *,
    kernels: bool = True,
    to_inputs: bool = False,
    hidden: tuple[int, ...] = HIDDEN,
) -> Products:
    """Products of its gradient, for the kernels and where asked for the inputs."""
    sizes = (inputs, *hidden, outputs)
    for layer, (inner, columns) in enumerate(itertools.pairwise(sizes)):
        if kernels:
            yield (members, inner, rows, columns), times
        if layer > 0 or to_inputs:
            yield (members, rows, columns, inner), times


def trained(*args: Any, **kwargs: Any) -> Products:
    """A forward pass and its gradient for the kernels."""
    yield from forward(*args, **kwargs)
    yield from backward(*args, **kwargs)


def _policy_through(
    sizes: Sizes, rows: int, width: int, members: int, times: float = 1.0
) -> Products:
    """A policy step: the policy, and the critics above it differentiated for the action."""
    yield from trained(rows, sizes.observation, width, times=times)
    yield from forward(rows, sizes.pair, 1, members, times)
    yield from backward(rows, sizes.pair, 1, members, times, kernels=False, to_inputs=True)


def products_bc(rows: int, config: Any, sizes: Sizes) -> Products:
    """One policy with mean and width, trained."""
    del config
    yield from trained(rows, sizes.observation, 2 * sizes.action)


def products_td3(rows: int, config: Any, sizes: Sizes) -> Products:
    """Per gradient step: targets of a period at once, critics, a share of a policy step."""
    delay, members, pair = config.policy_delay, config.num_critics, sizes.pair
    yield from forward(delay * rows, sizes.observation, sizes.action, times=1 / delay)
    yield from forward(delay * rows, pair, 1, members, 1 / delay)
    yield from trained(rows, pair, 1, members)
    yield from _policy_through(sizes, rows, sizes.action, 1, 1 / delay)


def products_sac(rows: int, config: Any, sizes: Sizes) -> Products:
    """Targets, critics, policy."""
    members, pair = config.num_critics, sizes.pair
    yield from forward(rows, sizes.observation, 2 * sizes.action)
    yield from forward(rows, pair, 1, members)
    yield from trained(rows, pair, 1, members)
    yield from _policy_through(sizes, rows, 2 * sizes.action, members)


def products_iql(rows: int, config: Any, sizes: Sizes) -> Products:
    """Target values, V, V of both observations, policy, critics."""
    members, pair = config.num_critics, sizes.pair
    yield from forward(rows, pair, 1, members)
    yield from trained(rows, sizes.observation, 1)
    yield from forward(2 * rows, sizes.observation, 1)
    yield from trained(rows, sizes.observation, sizes.action)
    yield from trained(rows, pair, 1, members)


def products_cql(rows: int, config: Any, sizes: Sizes) -> Products:
    """SAC with critics at the logged and 3 n sampled actions; pi(s), pi(s') serve twice."""
    members, pair = config.num_critics, sizes.pair
    yield from forward(rows, sizes.observation, 2 * sizes.action)
    yield from forward(rows, pair, 1, members)
    yield from trained((3 * config.num_samples + 1) * rows, pair, 1, members)
    yield from _policy_through(sizes, rows, 2 * sizes.action, members)


def _trained_vae(rows: int, config: Any, sizes: Sizes) -> Products:
    """Encoder and decoder, and the gradient from one to the other."""
    hidden, latent = config.vae_hidden_sizes, 2 * sizes.action
    yield from trained(rows, sizes.pair, 2 * latent, hidden=hidden)
    yield from forward(rows, sizes.observation + latent, sizes.action, hidden=hidden)
    yield from backward(
        rows, sizes.observation + latent, sizes.action, to_inputs=True, hidden=hidden
    )


def products_bcq(rows: int, config: Any, sizes: Sizes) -> Products:
    """Model, proposals at s and s', perturbed and valued at s', critics, perturbation."""
    members, pair = config.num_critics, sizes.pair
    targets = config.num_target_samples * rows
    yield from _trained_vae(rows, config, sizes)
    yield from forward(
        targets + rows, sizes.observation + 2 * sizes.action, sizes.action,
        hidden=config.vae_hidden_sizes,
    )  # fmt: skip
    yield from forward(targets, pair, sizes.action)
    yield from forward(targets, pair, 1, members)
    yield from trained(rows, pair, 1, members)
    yield from trained(rows, pair, sizes.action)
    yield from forward(rows, pair, 1)
    yield from backward(rows, pair, 1, kernels=False, to_inputs=True)


def products_bear(rows: int, config: Any, sizes: Sizes) -> Products:
    """Model, its actions at s, the policy's at s' and their values, critics, policy."""
    members, pair = config.num_critics, sizes.pair
    yield from _trained_vae(rows, config, sizes)
    yield from forward(
        config.num_mmd_samples * rows, sizes.observation + 2 * sizes.action, sizes.action,
        hidden=config.vae_hidden_sizes,
    )  # fmt: skip
    yield from forward(rows, sizes.observation, 2 * sizes.action)
    yield from forward(config.num_target_samples * rows, pair, 1, members)
    yield from trained(rows, pair, 1, members)
    yield from _policy_through(sizes, rows, 2 * sizes.action, members)


def products_discrete_bcq(rows: int, config: Any, sizes: Sizes) -> Products:
    """Critic, its target and the clone at s'; critic and clone trained."""
    yield from forward(rows, sizes.observation, config.num_actions, times=3)
    yield from trained(rows, sizes.observation, config.num_actions, times=2)


def products_spibb_dqn(rows: int, config: Any, sizes: Sizes) -> Products:
    """The target and the clone at s'; critic and clone trained."""
    yield from forward(rows, sizes.observation, config.num_actions, times=2)
    yield from trained(rows, sizes.observation, config.num_actions, times=2)


def products_awr(rows: int, config: Any, sizes: Sizes) -> Products:
    """V at all steps of the windows and after them; V and policy at their first."""
    yield from forward((config.window + 1) * rows, sizes.observation, 1)
    yield from trained(rows, sizes.observation, 1)
    yield from trained(rows, sizes.observation, sizes.action)


def products_awac(rows: int, config: Any, sizes: Sizes) -> Products:
    """Targets, critics, new critics at logged and sampled actions, policy; CRR has the same."""
    members, pair = config.num_critics, sizes.pair
    yield from forward(rows, sizes.observation, sizes.action)
    yield from forward(rows, pair, 1, members)
    yield from trained(rows, pair, 1, members)
    yield from forward((1 + config.num_samples) * rows, pair, 1, members)
    yield from trained(rows, sizes.observation, sizes.action)


def products_one_step(rows: int, config: Any, sizes: Sizes) -> Products:
    """Target values of both logged actions, critics, V, new V, policy."""
    members, pair = config.num_critics, sizes.pair
    yield from forward(2 * rows, pair, 1, members)
    yield from trained(rows, pair, 1, members)
    yield from trained(rows, sizes.observation, 1)
    yield from forward(rows, sizes.observation, 1)
    yield from trained(rows, sizes.observation, sizes.action)


def products_rebrac(rows: int, config: Any, sizes: Sizes) -> Products:
    """TD3, whose policy step goes through all critics."""
    delay, members, pair = config.policy_delay, config.num_critics, sizes.pair
    yield from forward(delay * rows, sizes.observation, sizes.action, times=1 / delay)
    yield from forward(delay * rows, pair, 1, members, 1 / delay)
    yield from trained(rows, pair, 1, members)
    yield from _policy_through(sizes, rows, sizes.action, members, 1 / delay)


def products_kl_control(rows: int, config: Any, sizes: Sizes) -> Products:
    """The prior at s and s', the target at s'; the policy trained."""
    yield from forward(rows, sizes.observation, config.num_actions, times=3)
    yield from trained(rows, sizes.observation, config.num_actions)


def products_brac(rows: int, config: Any, sizes: Sizes) -> Products:
    """BRAC-v with a primal divergence: the behaviour policy is trained, and asked at s and s'."""
    members, pair, width = config.num_critics, sizes.pair, 2 * sizes.action
    yield from trained(rows, sizes.observation, width)
    yield from forward(rows, sizes.observation, width, times=3)
    yield from forward(rows, pair, 1, members)
    yield from trained(rows, pair, 1, members)
    yield from _policy_through(sizes, rows, width, members)


def products_algae_dice(rows: int, config: Any, sizes: Sizes) -> Products:
    """Critics trained at s, s' and s_0, targets; a share of a policy step through all but s."""
    members, pair, width = config.num_critics, sizes.pair, 2 * sizes.action
    share = 1 / config.policy_delay
    yield from forward(rows, sizes.observation, width, times=2)
    yield from forward(rows, pair, 1, members)
    yield from trained(rows, pair, 1, members, times=3)
    yield from trained(rows, sizes.observation, width, times=2 * share)
    yield from forward(rows, pair, 1, members, times=4 * share)
    yield from backward(rows, pair, 1, members, 3 * share, kernels=False, to_inputs=True)
    for inner, columns in itertools.pairwise((sizes.observation, *HIDDEN, width)):
        yield (1, columns, inner, columns), share  # orthogonality: products, and their gradient
        yield (1, inner, columns, columns), share


ProductsOf = Callable[[int, Any, Sizes], Products]
ALGORITHMS: dict[str, tuple[Any, ProductsOf]] = {
    "bc": (bc, products_bc),
    "td3": (td3, products_td3),
    "td3_bc": (td3_bc, products_td3),
    "sac": (sac, products_sac),
    "iql": (iql, products_iql),
    "cql": (cql, products_cql),
    "bcq": (bcq, products_bcq),
    "bear": (bear, products_bear),
    "discrete_bcq": (discrete_bcq, products_discrete_bcq),
    "spibb_dqn": (spibb_dqn, products_spibb_dqn),
    "kl_control": (kl_control, products_kl_control),
    "awr": (awr, products_awr),
    "awac": (awac, products_awac),
    "crr": (crr, products_awac),
    "one_step": (one_step, products_one_step),
    "rebrac": (rebrac, products_rebrac),
    "brac": (brac, products_brac),
    "algae_dice": (algae_dice, products_algae_dice),
}

# What a default configuration lacks; with `num_actions`, logged actions are indices.
REQUIRED: dict[str, dict[str, Any]] = {
    "kl_control": {"num_actions": SIZES.action, "prior_steps": 0},
    "discrete_bcq": {"num_actions": SIZES.action},
    "spibb_dqn": {"num_actions": SIZES.action, "dataset_size": 100_000},
}


def main(_):
    """One row an algorithm."""
    names = _ONLY.value or list(ALGORITHMS)
    rows = []
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {_BATCH.value}")
    header = ("algorithm", "updates/s", "ms", "floor ms", "fraction", "compile s", "GFLOP/s", "MiB")
    print("{:13}{:>11}{:>9}{:>10}{:>10}{:>11}{:>9}{:>7}".format(*header))
    for name in names:
        row = measure(name)
        rows.append(row)
        print(
            "{algorithm:13}{updates_per_second:11.0f}{milliseconds:9.3f}{floor_milliseconds:10.3f}"
            "{fraction_of_floor:10.2f}{compile_seconds:11.1f}{gflops:9.0f}{peak_mib:7.0f}".format(
                **row
            ),
            flush=True,
        )
    if _CSV.value:
        runner.write_csv(_CSV.value, rows)


@functools.cache
def random_dataset(num_actions: int) -> data.Dataset:
    """Noise, with real actions or, where their number is given, with indices."""
    return timing.random_dataset(*SIZES, num_actions=num_actions)


def measure(name: str) -> dict[str, Any]:
    """Times updates and their products in turns."""
    algorithm, _ = ALGORITHMS[name]
    config = algorithm.Config(hidden_sizes=HIDDEN, **REQUIRED.get(name, {}))
    dataset = random_dataset(getattr(config, "num_actions", 0))
    counted = count_products(name, config, SIZES)
    run, compile_seconds, steps = timing.compile_updates(
        algorithm, config, dataset, _BATCH.value, _SECONDS.value
    )
    floor = floor_timer(counted, algorithm.batch_spec(config).minibatches)
    updates, floors = [], []
    for _ in range(_REPEATS.value):
        updates.append(run() / steps)
        floors.append(floor())
    seconds = float(np.median(updates))
    operations = sum(2 * np.prod(each, dtype=float) * times for each, times in counted.items())
    return {
        "algorithm": name,
        "updates_per_second": 1 / seconds,
        "milliseconds": 1e3 * seconds,
        "floor_milliseconds": 1e3 * float(np.median(floors)),
        "fraction_of_floor": float(np.median(np.array(floors) / np.array(updates))),
        "compile_seconds": compile_seconds,
        "gflops": operations / seconds / 1e9,
        "peak_mib": timing.peak_mib(),
    }


def count_products(name: str, config: Any, sizes: Sizes) -> dict[Product, float]:
    """How many of each product one update of this algorithm makes."""
    counted: dict[Product, float] = collections.defaultdict(float)
    _, products = ALGORITHMS[name]
    for product, times in products(_BATCH.value, config, sizes):
        counted[product] += times
    return counted


def floor_timer(counted: Mapping[Product, float], minibatches: int) -> Callable[[], float]:
    """A function that returns the seconds of all products of one update, and of nothing else.

    They run in one compiled loop, each with operands and a result buffer of its own. Once none
    waits for another, so that the compiler may overlap them, as it does with the independent
    products of an update; once each waits for the one before, which leaves more cache to each.
    The faster way counts. One operand of each changes from turn to turn, or the loop would be
    empty.
    """
    keys = iter(jax.random.split(jax.random.key(0), 1_000))
    operands, left_changes = [], []
    for (members, rows, inner, columns), times in counted.items():
        shapes = ((members, rows, inner), (members, inner, columns))
        if members == 1:
            shapes = (shapes[0][1:], shapes[1][1:])
        for _ in range(round(times * minibatches)):
            left, right = (jax.random.normal(next(keys), shape) for shape in shapes)
            left_changes.append(rows < columns)  # the smaller one
            changing, fixed = (left, right) if left_changes[-1] else (right, left)
            operands.append((jnp.stack([changing, -changing]), fixed))

    def products(operands: Any, turn: jax.Array | int, in_order: bool) -> list[jax.Array]:
        outputs = []
        for is_left, (several, fixed) in zip(left_changes, operands, strict=True):
            if in_order and outputs:  # adds 0, which the compiler cannot know
                turn = turn + jnp.isnan(outputs[-1].ravel()[0]).astype(jnp.int32)
            changing = several[turn % 2]
            outputs.append(changing @ fixed if is_left else fixed @ changing)
        return outputs

    @functools.partial(jax.jit, static_argnames=("in_order", "repeats"))
    def loop(operands: Any, in_order: bool, repeats: int) -> Any:
        return jax.lax.fori_loop(
            0,
            repeats,
            lambda turn, _: products(operands, turn, in_order),
            jax.tree.map(jnp.zeros_like, products(operands, 0, in_order)),
        )

    operations = minibatches * sum(
        2 * np.prod(each, dtype=float) * times for each, times in counted.items()
    )
    repeats = max(2, int(0.5 * _SECONDS.value * 5e10 / operations))

    def seconds_of(in_order: bool) -> float:
        start = time.perf_counter()
        jax.block_until_ready(loop(operands, in_order=in_order, repeats=repeats))
        return (time.perf_counter() - start) / (repeats * minibatches)

    def seconds() -> float:
        return min(seconds_of(False), seconds_of(True))

    seconds()  # compiles
    return seconds


if __name__ == "__main__":
    app.run(main)
