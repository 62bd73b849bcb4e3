"""A speaker that learns from how users react, and keeps talking like a person (Jaques et al. 2019).

    python experiments/dialogue.py
    python experiments/dialogue.py --chat

A grammar of small talk makes text; a network learns p(word | what was said) from it by likelihood.
It talks with simulated users, and what they do next is the reward of an answer; nothing else is
logged. From that log alone learn: batch Q-learning, which is free to say anything; KL-control in
both forms, held near p; and Psi-learning with a lower bound over dropout masks. Each learner's
speaker then talks with new users.

Beside the reward of a conversation stand the divergence from p, how likely p finds the words,
the different words among the first 500, the share of words that repeat the one before, the share
of word pairs that the grammar never makes, and what the learner believes of a conversation beside
what it is worth (discounted, less c times the divergence; form Q counts the policy's entropy twice
and believes in more). Intervals are 95 % bootstrap intervals
over seeds; each seed has its own log and start. The price of a nat, c, is in units of the reward.

With --chat, after a short training by Psi-learning, the keyboard is the user. The speaker
knows few words; those that it does not know are named.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import struct

import ddm
from ddm import data, envs, runner
from ddm.envs import dialogue
from ddm.errors import InputError
from ddm.evaluation import statistics
from ddm.policy_constraint import kl_control

# The names differ from those of the other experiments, beside which this one may be imported.
_SEEDS = flags.DEFINE_integer("speaker_seeds", 3, "Seeds of each learner.", lower_bound=1)
_TEXTS = flags.DEFINE_integer("texts", 2_000, "Conversations of the grammar.", lower_bound=1)
_LOGGED = flags.DEFINE_integer("logged", 2_000, "Conversations in a log.", lower_bound=1)
_TALKS = flags.DEFINE_integer("talks", 500, "Conversations that score a speaker.", lower_bound=1)
_PRIOR = flags.DEFINE_integer("prior_updates", 3_000, "Updates of the language model.")
_UPDATES = flags.DEFINE_integer("speaker_updates", 4_000, "Updates of a learner.", lower_bound=1)
_PRICES = flags.DEFINE_list("prices", ["0.2", "0.5"], "Of a nat of divergence, c.")
_CHAT = flags.DEFINE_bool("chat", False, "Talk with the speaker instead.")
_OUTPUT = flags.DEFINE_string(
    "results_dir", "benchmarks/results", "Folder for the table (CSV) and the picture (PNG)."
)

ENVIRONMENT = envs.Dialogue()
ROWS = 128  # of a batch
BASE = kl_control.Config(
    num_actions=len(dialogue.WORDS), num_tokens=dialogue.NUM_TOKENS, embedding_size=16,
    hidden_sizes=(96,), dropout_rate=0.1, learning_rate=1e-3, discount=0.97, target_rate=0.01,
    prior_steps=0,
)  # fmt: skip
PRIOR = "language model"
FREE = "Q-learning"
LEARNERS: dict[str, dict[str, Any]] = {
    FREE: {"form": "q", "backup": "double"},
    "KL-control, Q": {"form": "q"},
    "KL-control, Psi": {"form": "psi"},
    "Psi, lower bound": {"form": "psi", "target_samples": 5},
}
CHATS = "KL-control, Psi"
METRICS = (
    "reward", "answers", "kl", "log_prob", "words", "repeats", "odd", "estimate", "truth",
)  # fmt: skip


class Speaker(struct.PyTreeNode):
    """A policy that samples, for `ddm.envs.collect`."""

    config: kl_control.Config
    state: kl_control.State

    def __call__(self, observation: jax.Array, key: jax.Array, policy_state: Any) -> Any:
        """The next word."""
        return kl_control.act(self.config, self.state, observation, key, policy_state)


def main(_):
    """The language model, then a chat, or logs, learners, table and picture."""
    prices()  # refused before anything is learned
    prior = learn_language(jax.random.key(0), _TEXTS.value, _PRIOR.value)
    if _CHAT.value:
        chat_after_training(prior)
        return
    rows = []
    print(
        f"{'speaker':17}{'c':>5}{'reward':>21}{'answers':>8}{'kl':>7}{'log p':>7}{'words':>6}"
        f"{'repeats':>8}{'odd':>6}{'estimate':>9}{'truth':>7}"
    )
    logs = [collect_log(prior, seed, _LOGGED.value) for seed in range(_SEEDS.value)]
    for name, price in contestants(prices()):
        found, talks = [], []
        for seed, log in enumerate(logs):
            speaker = prior
            if name != PRIOR:
                config = configuration(name, price)
                speaker = learn(config, prior, log, seed, _UPDATES.value)
            talks = talk(speaker, jax.random.key(1_000 + seed), _TALKS.value)
            found.append(judge(speaker, talks))
        rows.append(summarize(name, price, found))
        print_row(rows[-1])
        print(transcript(max(talks[:10], key=lambda each: len(each["rewards"]))), flush=True)
    folder = Path(_OUTPUT.value)
    runner.write_csv(folder / "dialogue.csv", rows)
    draw(rows, folder / "dialogue.png")
    print(folder / "dialogue.csv", folder / "dialogue.png")


def prices() -> list[float]:
    """The weights c of the flag.

    Raises:
      InputError: one is no number above 0.
    """
    try:
        found = [float(each) for each in _PRICES.value]
    except ValueError as error:
        raise InputError(f"--prices: {error}") from error
    if not found or min(found) <= 0.0:
        raise InputError(f"--prices are {_PRICES.value}, expected numbers above 0")
    return found


def contestants(weights: list[float]) -> list[tuple[str, float]]:
    """Names and their weights c; the language model and Q-learning have none."""
    free = [(PRIOR, 0.0), (FREE, 0.0)]
    return free + [(name, weight) for name in LEARNERS if name != FREE for weight in weights]


def configuration(name: str, kl_weight: float) -> kl_control.Config:
    """A learner's hyper-parameters."""
    return BASE.replace(kl_weight=kl_weight, **LEARNERS[name])


def learn_language(key: jax.Array, texts: int, updates: int) -> Speaker:
    """p(word | what was said), by likelihood of what the grammar says."""
    text_key, init_key, fit_key = jax.random.split(key, 3)
    episodes = envs.collect(
        ENVIRONMENT, dialogue.speaker_policy, text_key, num_episodes=texts,
        initial_policy_state=dialogue.speaker_start,
    )  # fmt: skip
    dataset = as_dataset(episodes, "text")
    config = BASE.replace(prior_steps=updates)
    state = _fit(config, _init(config, init_key, dataset), dataset, fit_key, updates)
    return Speaker(BASE, state)


def collect_log(prior: Speaker, seed: int, conversations: int) -> data.Dataset:
    """What the language model said, and what the users did."""
    return as_dataset(talk(prior, jax.random.key(100 + seed), conversations), f"log {seed}")


def learn(
    config: kl_control.Config, prior: Speaker, log: data.Dataset, seed: int, updates: int
) -> Speaker:
    """A learner's speaker, from a log alone."""
    init_key, fit_key = jax.random.split(jax.random.key(seed))
    state = _init(config, init_key, log)
    assert prior.state.prior is not None
    state = kl_control.with_prior(config, state, prior.state.prior.params)
    return Speaker(config, _fit(config, state, log, fit_key, updates))


def as_dataset(episodes: list[Any], name: str) -> data.Dataset:
    """A log of conversations."""
    space = ENVIRONMENT.action_space(ENVIRONMENT.default_params)
    return data.from_episodes(episodes, action_space=space, name=name)


def talk(speaker: Speaker, key: jax.Array, conversations: int) -> list[Any]:
    """Conversations with simulated users."""
    return envs.collect(ENVIRONMENT, speaker, key, num_episodes=conversations)


def judge(speaker: Speaker, talks: list[Any]) -> dict[str, float]:
    """`METRICS` of a speaker's conversations."""
    words = np.concatenate([each["actions"] for each in talks])
    observations = np.concatenate([each["observations"][:-1] for each in talks])
    divergences, log_priors = _compare(speaker, observations, words)
    worth, start = [], 0
    for each in talks:
        steps = len(each["rewards"])
        price = speaker.config.kl_weight * divergences[start : start + steps]
        worth.append(np.sum((each["rewards"] - price) * _discounts(speaker, steps)))
        start += steps
    begins = observations[:, -1] == dialogue.USER_END
    before = np.where(begins, len(dialogue.WORDS), np.roll(words, 1))
    openings = np.stack([each["observations"][0] for each in talks])
    estimates = kl_control.state_values(speaker.config, speaker.state, jnp.asarray(openings))
    return {
        "reward": float(np.mean([each["rewards"].sum() for each in talks])),
        "answers": float(begins.sum() / len(talks)),
        "kl": float(divergences.mean()),
        "log_prob": float(log_priors.mean()),
        "words": float(len(set(words[:500].tolist()))),
        "repeats": float(np.mean(words == before)),
        "odd": float(np.mean(~dialogue.usual_pairs()[before, words])),
        "estimate": float(np.mean(estimates)),
        "truth": float(np.mean(worth)),
    }


def transcript(talk: Any, answers: int = 3) -> str:
    """The first exchanges of a conversation."""
    lines = []
    begins = np.flatnonzero(talk["observations"][:-1, -1] == dialogue.USER_END)
    for start, end in itertools.pairwise([*begins[:answers], *begins[answers:][:1], None]):
        user = dialogue.user_text(talk["observations"][start])
        answer = " ".join(dialogue.WORDS[word] for word in talk["actions"][start:end])
        lines.append(f"    {user} | {answer}")
    return "\n".join(lines[:answers])


def summarize(name: str, kl_weight: float, found: list[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, with intervals."""
    row: dict[str, Any] = {"speaker": name, "kl_weight": kl_weight, "seeds": len(found)}
    for metric in METRICS:
        values = np.array([each[metric] for each in found])
        low, high = statistics.bootstrap_interval(values, statistics.mean)
        numbers = {"": values.mean(), "_low": low, "_high": high}
        row |= {f"{metric}{end}": float(f"{float(n):.6g}") for end, n in numbers.items()}
    return row


def print_row(row: dict[str, Any]) -> None:
    """One line."""
    reward = f"{row['reward']:.2f} [{row['reward_low']:.2f}, {row['reward_high']:.2f}]"
    print(
        f"{row['speaker']:17}{row['kl_weight']:5g}{reward:>21}{row['answers']:8.1f}{row['kl']:7.2f}"
        f"{row['log_prob']:7.2f}{row['words']:6.0f}{row['repeats']:8.2f}{row['odd']:6.2f}"
        f"{row['estimate']:9.2f}{row['truth']:7.2f}",
        flush=True,
    )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Reward against divergence, and beliefs against the truth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(row["speaker"] for row in rows))
    for color, name in enumerate(names):
        own = [row for row in rows if row["speaker"] == name]
        rewards = np.array([row["reward"] for row in own])
        ends = np.array([[row["reward_low"], row["reward_high"]] for row in own]).T
        spread = np.abs(ends - rewards)
        divergences = [row["kl"] for row in own]
        left.errorbar(divergences, rewards, yerr=spread, fmt="o-", color=f"C{color}", label=name)
        for row in own[: len(own) if len(own) > 1 else 0]:
            left.annotate(f" c = {row['kl_weight']:g}", (row["kl"], row["reward"]), fontsize=6)
    left.set(xlabel="KL from the language model, nats a word", ylabel="reward of a conversation")
    left.legend(fontsize=7)
    places = np.arange(len(rows))
    right.bar(places - 0.2, [row["estimate"] for row in rows], 0.4, label="believed", color="0.7")
    right.bar(places + 0.2, [row["truth"] for row in rows], 0.4, label="true", color="0.3")
    labels = [f"{row['speaker']}\nc = {row['kl_weight']:g}".replace(", ", ",\n") for row in rows]
    right.set_xticks(places, labels, fontsize=5)
    right.set_yscale("symlog", linthresh=1.0)
    right.set_ylabel("value of a conversation")
    right.legend(fontsize=7)
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.tmp{path.suffix}")
    figure.savefig(temporary, dpi=130, metadata={"Software": None})
    os.replace(temporary, path)


def chat_after_training(prior: Speaker) -> None:
    """Trains the last learner and talks over standard input and output."""
    print("learning from the users' reactions ...", flush=True)
    log = collect_log(prior, 0, _LOGGED.value)
    config = configuration(CHATS, prices()[0])
    speaker = learn(config, prior, log, 0, _UPDATES.value)
    print("words:", " ".join(sorted(dialogue.WORDS[1:])))
    print("an empty line ends the conversation")
    chat(speaker, jax.random.key(0), sys.stdin, functools.partial(print, flush=True))


def chat(
    speaker: Speaker, key: jax.Array, lines: Iterable[str], write: Callable[[str], Any]
) -> None:
    """Answers each line until an empty one; names words that are unknown instead.

    Args:
      speaker: who answers.
      key: of the words.
      lines: what the user types.
      write: is given one line at a time.
    """
    context = np.zeros(dialogue.CONTEXT, np.int32)
    for number, line in enumerate(lines):
        if not line.strip():
            break
        try:
            said = dialogue.encode(line)
        except InputError as error:
            write(str(error))
            continue
        context = dialogue.append(context, [*(1 + word for word in said), dialogue.USER_END])
        answer = []
        for place in range(dialogue.MAX_WORDS):
            word_key = jax.random.fold_in(jax.random.fold_in(key, number), place)
            word = int(_next_word(speaker, jnp.asarray(context, jnp.float32), word_key))
            context = dialogue.append(context, [1 + word])
            answer.append(word)
            if word == dialogue.END:
                break
        write(f"> {dialogue.decode(answer)}")


@jax.jit
def _next_word(speaker: Speaker, context: jax.Array, key: jax.Array) -> jax.Array:
    return speaker(context, key, ())[0]


@jax.jit
def _compare_rows(
    speaker: Speaker, observations: jax.Array, words: jax.Array
) -> tuple[jax.Array, jax.Array]:
    log_policy = kl_control.log_policy(speaker.config, speaker.state, observations)
    log_prior = kl_control.log_prior(speaker.config, speaker.state, observations)
    possible = log_policy > -jnp.inf
    gaps = jnp.where(possible, log_policy, 0.0) - jnp.where(possible, log_prior, 0.0)
    said = jnp.take_along_axis(log_prior, words[:, None], axis=1)[:, 0]
    return jnp.sum(jnp.exp(log_policy) * gaps, axis=1), said


def _compare(
    speaker: Speaker, observations: np.ndarray, words: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """KL(pi || p) at each observation and log p of each word; in blocks of one shape."""
    block = 4_096
    size = -len(words) % block
    padded = np.pad(observations, ((0, size), (0, 0))), np.pad(words, (0, size))
    parts = [
        _compare_rows(speaker, *(jnp.asarray(each[start : start + block]) for each in padded))
        for start in range(0, len(words), block)
    ]
    divergences, log_priors = (
        np.concatenate(each)[: len(words)] for each in zip(*parts, strict=True)
    )
    return np.maximum(divergences, 0.0), log_priors  # rounding may leave less


def _discounts(speaker: Speaker, steps: int) -> np.ndarray:
    return float(speaker.config.discount) ** np.arange(steps)


def _init(config: kl_control.Config, key: jax.Array, dataset: data.Dataset) -> kl_control.State:
    batch = data.sample(dataset, key, 1, kl_control.batch_spec(config))
    return jax.jit(kl_control.init)(config, key, batch)


@functools.partial(jax.jit, static_argnames="updates")
def _fit(
    config: kl_control.Config, state: Any, dataset: data.Dataset, key: jax.Array, updates: int
) -> kl_control.State:
    return ddm.fit(kl_control, config, dataset, key, updates, batch_size=ROWS, state=state)[0]


if __name__ == "__main__":
    runner.launch(main)
