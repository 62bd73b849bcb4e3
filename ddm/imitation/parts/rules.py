"""The hyper-parameters of learning in rounds."""

from __future__ import annotations

from typing import Any

from ddm.errors import InputError
from ddm.imitation.parts import gates
from ddm.types import Configuration, NetworkFn, choice, leaf, network, static


class Rules(Configuration):
    """Hyper-parameters of the rounds; the learner's own stand beside them."""

    round_steps: int = static(500, "[1, inf)")  # of each copy of the environment in a round
    round_copies: int = static(1, "[1, inf)")  # of the environment
    round_updates: int = static(500, "[1, inf)")  # updates of the learner in a round
    # updates on the demonstrations before the first round; 0: there are none, or they are only
    # mixed in
    clone_steps: int = static(0, "[0, inf)")
    max_rows: int = static(1_000_000, "[1, inf)")  # labelled rows that are kept
    retrain: bool = static(False)  # each round begins with fresh networks; False: goes on
    # how beta, the share of the expert's steps, falls from round to round
    beta_schedule: str = choice(gates.SCHEDULES, "first")
    beta_decay: float = leaf(0.5, "[0, 1]")  # p of the exponential schedule
    beta_rounds: int = leaf(15, "[1, inf)")  # rounds of the linear schedule
    gate: str = choice(gates.GATES, "none")  # leaves further steps to the expert, and saves labels
    # ensemble: largest variance of the members' actions, from -1 to 1, at which they act
    doubt_limit: float = leaf(0.01, "[0, inf]")
    # ensemble, safe: largest mean squared distance from the expert's action; inf: not asked
    discrepancy_limit: float = leaf(0.01, "[0, inf]")
    query_rate: float = leaf(0.1, "[0, 1]")  # budget: share of the states that are asked
    quantile_rate: float = leaf(0.1, "(0, inf)")  # budget: how fast the quantile follows
    max_labels: int = leaf(0, "[0, inf)")  # of a whole run; 0: no limit
    num_members: int = static(1, "[1, inf)")  # learners, for gates that need their doubt
    noise: str = choice(("none", "isotropic", "dart"), "none")  # on the expert's own steps
    # isotropic: its standard deviation, in actions from -1 to 1; of discrete actions the share of
    # random ones. dart: root of the covariance's trace; 0: as large as the learner's errors
    noise_scale: float = leaf(0.0, "[0, inf)")
    # share of the labelled states that the policy does not learn from; safe, dart: for the
    # classifier and the learner's errors
    held_out_share: float = leaf(0.2, "(0, 1)")
    safety_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size of safe's classifier
    safety_hidden_sizes: tuple[int, ...] = static((64, 64), "[1, inf)")  # of safe's classifier
    safety_network: NetworkFn | None = network()  # in place of `safe.safety_network`


def holds_out(config: Any) -> bool:
    """Whether the policy does not learn from some of the labelled states."""
    return config.gate == "safe" or config.noise == "dart"


def check(config: Any) -> None:
    """Refuses rules that do not fit each other."""
    if config.gate in gates.DOUBTING and config.num_members < 2:
        raise InputError(
            f"dagger: gate={config.gate} compares members, and num_members is "
            f"{config.num_members}: expected at least 2"
        )
