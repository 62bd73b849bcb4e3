"""DAgger: imitation learned on the learner's own states, which an expert labels.

    python experiments/dagger.py --environment=SineTrack-Noisy-v0 --rounds=3 \\
        --expert=ddm.envs.sine_track:expert_action
    python experiments/dagger.py --environment=Hopper-v5 --expert=runs/sac --policy_class=cvae
    python experiments/dagger.py --environment=Hopper-v5 --expert=human --labels=labels --rounds=3

The expert is a trained run's folder, a function of one observation in JAX, an expert of
`ddm.evaluation.experts`, or a person, who labels with experiments/label.py. With `--dataset` the
demonstrations stand beside the collected rows, and `--clone_steps` trains on them first.

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

import dataclasses
import sys

from absl import flags

import ddm
from ddm import runner
from ddm.errors import InputError
from ddm.imitation import dagger
from ddm.runner.experts import load_expert

_EXPERT = flags.DEFINE_string("expert", "", "RUN_DIR, FILE.py:FUNCTION, or human.")
_LABELS = flags.DEFINE_string("labels", "labels", "Folder of a person's labels.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds of collection and training.", lower_bound=1)
_POLICY_CLASS = flags.DEFINE_string("policy_class", "bc", "Method of imitation that learns.")


def chosen_learner(arguments: list[str]) -> str:
    """The value of --policy_class, which decides what other flags there are."""
    name = "bc"
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and flag == "policy_class":
            name = value if equals else (*arguments[i + 1 :], "")[0]
    return name


def algorithm_over(name: str):
    """DAgger over the method of that name."""
    if name == "bc":
        return dagger
    known = ddm.algorithms()
    if name not in known or ".imitation." not in known[name].__name__ or name == "dagger":
        raise InputError(f"--policy_class={name} is no method of imitation")
    return dagger.over(known[name])


try:
    ALGORITHM = algorithm_over(chosen_learner(sys.argv[1:]))
except InputError as problem:
    sys.exit(f"error: {problem}")
runner.define_flags(ALGORITHM, online=True)


def main(_):
    """Load, ask, train, evaluate, report."""
    options, config = runner.parse_flags(ALGORITHM)
    options = whole_rounds(options, config)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    expert = load_expert(_EXPERT.value, _LABELS.value)
    return runner.train(ALGORITHM, config, dataset, environment, options, expert=expert)


def whole_rounds(options, config):
    """As many updates as the rounds have, with a row of metrics and a checkpoint for each."""
    size = ALGORITHM.batch_spec(config).minibatches
    return dataclasses.replace(
        options,
        num_updates=_ROUNDS.value * size,
        log_every=size,
        eval_every=size,
        checkpoint_every=size,
    )


if __name__ == "__main__":
    runner.launch(main)
