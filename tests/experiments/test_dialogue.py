"""The dialogue experiment at small sizes: language model, learners, measures, chat."""

from __future__ import annotations

import csv
import pathlib

import jax
import numpy as np
import pytest
import scripts

from ddm.envs import dialogue

SCRIPT = pathlib.Path(__file__).parents[2] / "experiments" / "dialogue.py"
TINY = ("--texts=20", "--logged=20", "--talks=20", "--prior_updates=40", "--speaker_updates=20")


@pytest.fixture(scope="module")
def experiment():
    """The experiment's module."""
    with scripts.imported(SCRIPT) as module:
        yield module


@pytest.fixture(scope="module")
def language(experiment):
    return experiment.learn_language(jax.random.key(0), 256, 500)


@pytest.fixture(scope="module")
def log(experiment, language):
    return experiment.collect_log(language, 0, 256)


def _run(*arguments, folder, text=""):
    return scripts.run(SCRIPT, *TINY, *arguments, cwd=folder, text=text)


def test_the_language_model_talks_like_its_text(experiment, language):
    talks = experiment.talk(language, jax.random.key(3), 256)
    found = experiment.judge(language, talks)
    assert found["kl"] == pytest.approx(0.0, abs=1e-5)
    assert found["estimate"] == 0.0  # it has learned no values
    assert found["log_prob"] > -1.5  # of 48 words: -3.9 if all were alike
    assert found["odd"] < 0.1
    assert found["words"] > 30
    rewards = [each["rewards"].sum() for each in talks]
    assert found["reward"] == pytest.approx(np.mean(rewards), rel=1e-5)


def test_measures_of_a_conversation_by_hand(experiment, language):
    words = np.array([*dialogue.encode("ok ok"), dialogue.END, *dialogue.encode("great"), 0])
    observations = np.zeros((6, dialogue.CONTEXT), np.float32)
    user = [*(1 + np.array(dialogue.encode("hello"))), dialogue.USER_END]
    for row, tokens in {0: user, 3: [5, *user]}.items():
        observations[row] = dialogue.append(observations[row], tokens)
    rewards = np.array([0.0, 0.0, 1.0, 0.0, 0.5])
    talk = {"actions": words, "observations": observations, "rewards": rewards}
    found = experiment.judge(language, [talk])
    assert found["reward"] == 1.5
    assert found["answers"] == 2.0
    assert found["words"] == 3.0
    assert found["repeats"] == pytest.approx(1 / 5)
    usual = dialogue.usual_pairs()
    assert not usual[words[0], words[0]]
    assert found["odd"] == pytest.approx(2 / 5)  # "ok ok", and "great" at an answer's start
    assert found["truth"] == pytest.approx(0.97**2 + 0.5 * 0.97**4)


@pytest.mark.slow
def test_a_price_on_the_divergence_keeps_the_speaker_near(experiment, language, log):
    divergence = {}
    for price in (0.2, 0.0):  # without one, Psi-learning is Q-learning
        config = experiment.configuration("KL-control, Psi", price)
        speaker = experiment.learn(config, language, log, 0, 300)
        talks = experiment.talk(speaker, jax.random.key(3), 256)
        divergence[price] = experiment.judge(speaker, talks)["kl"]
    assert 0.0 < divergence[0.2] < 0.5
    assert divergence[0.0] > 2.0


def test_the_chat_answers_in_its_words_and_names_what_it_does_not_know(experiment, language):
    written = []
    lines = [
        "Hello, how are you?\n",
        "do you like quantum music?\n",
        "i like cats\n",
        "\n",
        "hello",
    ]
    experiment.chat(language, jax.random.key(0), lines, written.append)
    assert len(written) == 3
    assert written[1] == "unknown words: quantum"
    for answer in (written[0], written[2]):
        assert answer.startswith("> ")
        assert set(answer[2:].split()) <= set(dialogue.WORDS)


@pytest.mark.slow
def test_the_script_writes_its_table_and_picture(tmp_path):
    done = _run("--speaker_seeds=2", "--prices=0.3", "--results_dir=out", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = list(csv.DictReader((tmp_path / "out" / "dialogue.csv").open()))
    assert [row["speaker"] for row in rows] == [
        "language model", "Q-learning", "KL-control, Q", "KL-control, Psi", "Psi, lower bound",
    ]  # fmt: skip
    assert all(
        float(r["reward_low"]) <= float(r["reward"]) <= float(r["reward_high"]) for r in rows
    )
    assert (tmp_path / "out" / "dialogue.png").stat().st_size > 10_000


def test_the_log_trains_on_the_command_line(log, tmp_path):
    steps = int(log.episode_starts[8])  # whole conversations
    fields = ("observations", "actions", "rewards", "terminations")
    np.savez(
        tmp_path / "log.npz", **{name: np.asarray(getattr(log, name))[:steps] for name in fields}
    )
    script = SCRIPT.with_name("kl_control.py")
    flags = (
        "--dataset=log.npz", f"--num_tokens={dialogue.NUM_TOKENS}", "--hidden_sizes=8",
        "--prior_steps=2", "--num_updates=4", "--log_every=2", "--batch_size=4", "--run_dir=run",
        "--noplots",
    )  # fmt: skip
    done = scripts.run(script, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "summary.json").is_file()


def test_prices_that_are_none_are_refused(tmp_path):
    done = _run("--prices=0.2,-1", "--prior_updates=1", "--texts=1", folder=tmp_path)
    assert done.returncode != 0
    assert "expected numbers above 0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_chat_takes_piped_lines(tmp_path):
    done = _run("--chat", folder=tmp_path, text="hello\nxylophone\n")
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines[-1] == "unknown words: xylophone"
    assert lines[-2].startswith("> ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_rewards_rise_under_kl_control_and_q_learning_believes_in_what_is_not_there(experiment):
    language = experiment.learn_language(jax.random.key(0), 1_000, 2_500)
    log = experiment.collect_log(language, 0, 1_500)
    found = {}
    for name, price in (("KL-control, Psi", 0.2), ("Q-learning", 0.0)):
        config = experiment.configuration(name, price)
        speaker = experiment.learn(config, language, log, 0, 2_500)
        talks = experiment.talk(speaker, jax.random.key(5), 300)
        found[name] = experiment.judge(speaker, talks)
    prior = experiment.judge(language, experiment.talk(language, jax.random.key(5), 300))
    held, free = found["KL-control, Psi"], found["Q-learning"]
    assert held["reward"] > 1.5 * prior["reward"]
    assert held["kl"] < 1.0
    assert held["odd"] < 0.1
    assert free["reward"] < held["reward"]
    assert free["estimate"] - free["truth"] > 3.0
    assert free["kl"] > 3.0
    assert free["odd"] > 0.3
