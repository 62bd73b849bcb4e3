"""Labels that DAgger asks of an outside expert until it is as good, with and without a gate.

    python benchmarks/dagger_labels.py --expert=FILE.py:NAME --environment=Hopper-v4

The committed table is from the printed lines of one run that was stopped after round 6, on one
seed, with --rounds=8 --round_updates=1000: plain DAgger from two episodes. Rounds below 1 are the
clone's.

The expert is a function of rows of numpy (:class:`ddm.evaluation.experts.HostExpert`). It first
gives so many episodes of demonstrations, which are labels, too. One row for each round: the labels
so far, and the mean return of the learner and of the expert.
"""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path

import numpy as np
from absl import flags

from ddm import data, runner
from ddm.evaluation import make_environment
from ddm.evaluation.experts import labels_of
from ddm.imitation import dagger
from ddm.runner.experts import load_expert

_EXPERT = flags.DEFINE_string("expert", "", "FILE.py:NAME of a HostExpert.")
_ENVIRONMENT = flags.DEFINE_string("environment", "Hopper-v4", "gymnasium environment.")
_EPISODES = flags.DEFINE_multi_integer("episodes", [2, 10], "Demonstrations at the start.")
_ROUNDS = flags.DEFINE_integer("rounds", 8, "Rounds after them.")
_ROUND_STEPS = flags.DEFINE_integer("round_steps", 1_000, "Environment steps of a round.")
_UPDATES = flags.DEFINE_integer("round_updates", 2_000, "Gradient steps of a round.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Seeds of each learner.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/dagger_labels.csv", "Table to write.")
_SHARE = flags.DEFINE_float("share", 0.95, "Of the expert's return that is to be reached.")

LEARNERS = {
    "dagger": {},
    "budget": {"gate": "budget", "num_members": 3, "query_rate": 0.2},
}


def main(_):
    """Demonstrations, then every learner from them."""
    expert = load_expert(_EXPERT.value)
    factory = make_environment(_ENVIRONMENT.value)
    everything, returns = demonstrate(factory, expert, max(_EPISODES.value))
    rows = []
    for episodes in _EPISODES.value:
        log = data.normalize(
            data.take_episodes(everything, np.arange(episodes)), observations="standardize"
        )
        for name, rules in LEARNERS.items():
            rows += learn(name, rules, log, factory, expert, episodes, float(np.mean(returns)))
            write(rows)
    for row in rows:
        print(json.dumps(row))


def demonstrate(factory, expert, episodes):
    """Episodes of the expert, and their returns."""
    environment = factory()
    box = environment.action_space
    found, returns = [], []
    for seed in range(episodes):
        observation, _ = environment.reset(seed=10_000 + seed)
        seen, done, rewards, ends = [observation], [], [], []
        while not ends or not any(ends[-1]):
            space = data_space(box)
            action = labels_of(
                expert, np.asarray(seen[-1:], np.float32), space, _ENVIRONMENT.value
            )[0]
            observation, reward, *end, _ = environment.step(action)
            seen.append(observation)
            done.append(action)
            rewards.append(reward)
            ends.append(end)
        terminations, truncations = np.array(ends, bool).T
        found.append(
            {
                "observations": np.asarray(seen, np.float32),
                "actions": np.asarray(done, np.float32),
                "rewards": np.asarray(rewards, np.float32),
                "terminations": terminations,
                "truncations": truncations & ~terminations,
            }
        )
        returns.append(float(np.sum(rewards)))
    environment.close()
    made = data.from_episodes(
        found, action_space=(np.ravel(box.low), np.ravel(box.high)), name="demonstrations"
    )
    return made, returns


def data_space(box):
    """The box of actions as the library has it."""
    from ddm.types import Box

    low, high = (tuple(map(float, np.ravel(bound))) for bound in (box.low, box.high))
    return Box(box.shape, low, high)


def learn(name, rules, log, factory, expert, episodes, expert_return):
    """All rounds of one learner; a row for each seed and round."""
    config = dagger.Config(
        head="mse",
        hidden_sizes=(128, 128),
        round_steps=_ROUND_STEPS.value,
        round_updates=_UPDATES.value,
        clone_steps=2 * _UPDATES.value,
        max_rows=_ROUNDS.value * _ROUND_STEPS.value,
        **rules,
    )
    size = _UPDATES.value
    with tempfile.TemporaryDirectory() as folder:
        options = runner.Options(
            run_dir=folder, seeds=_SEEDS.value, num_updates=_ROUNDS.value * size, log_every=size,
            eval_every=size, eval_at_start=False, checkpoint_every=0, batch_size=128,
            eval_episodes=10, plots=False, progress="plain", log_share=0.5,
            environment=_ENVIRONMENT.value,
        )  # fmt: skip
        runner.train(dagger, config, log, factory, options, expert=expert)
        with (Path(folder) / "metrics.csv").open() as file:
            metrics = {
                (int(row["step"]), int(row["seed"]), row["metric"]): float(row["value"])
                for row in csv.DictReader(file)
            }
    demonstrated = log.num_transitions
    return [
        {
            "environment": _ENVIRONMENT.value,
            "learner": name,
            "demonstrations": episodes,
            "seed": lane,
            "round": step // size - 2,
            "labels": demonstrated + int(metrics.get((step, lane, "collect/labels"), 0)),
            "steps": demonstrated + max(step // size - 2, 0) * _ROUND_STEPS.value,
            "return": round(value, 1),
            "expert_return": round(expert_return, 1),
            "reached": value >= _SHARE.value * expert_return,
        }
        for (step, lane, metric), value in sorted(metrics.items())
        if metric == "evaluation/return"
    ]


def write(rows):
    """The table so far."""
    runner.write_csv(Path(_OUTPUT.value), rows)


if __name__ == "__main__":
    runner.launch(main)
