"""The simulated user: what it hears, how it reacts, and the speaker that text is made by."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import envs
from ddm.envs import dialogue
from ddm.errors import InputError

ENVIRONMENT = envs.make("Dialogue-v0")
PARAMS = ENVIRONMENT.default_params
STEP = jax.jit(ENVIRONMENT.step)


@pytest.fixture(scope="module")
def start():
    """A conversation about music."""
    _, state = ENVIRONMENT.reset(jax.random.key(0), PARAMS)
    user = [*(1 + np.array(dialogue.encode("i like music"))), dialogue.USER_END]
    context = dialogue.append(np.zeros(dialogue.CONTEXT, np.int32), user)
    topic = jnp.int32(dialogue.TOPICS.index("music"))
    return state.replace(context=jnp.asarray(context), topic=topic)


@pytest.fixture(scope="module")
def episodes():
    return envs.collect(
        ENVIRONMENT, dialogue.speaker_policy, jax.random.key(0), num_episodes=64,
        initial_policy_state=dialogue.speaker_start,
    )  # fmt: skip


def _say(state, text):
    """The state before the answer's last word, and the user's probabilities after it."""
    words = dialogue.encode(text)
    for word in words:
        _, state, reward, terminated, *_ = STEP(jax.random.key(0), state, jnp.int32(word), PARAMS)
        assert reward == 0.0
        assert not terminated
    heard = dialogue._hear(state, jnp.int32(dialogue.END))
    return state, jax.nn.softmax(dialogue.reaction_logits(heard))


def test_words_are_distinct_and_survive_encoding():
    assert len(set(dialogue.WORDS)) == len(dialogue.WORDS)
    text = "do you like music ?"
    assert dialogue.decode([*dialogue.encode("Do you like music?"), dialogue.END, 5]) == text
    with pytest.raises(InputError, match="unknown words: <end>, quantum, xylophone"):
        dialogue.encode("quantum like xylophone <end>")


def test_the_user_likes_friendly_topical_and_asking_answers_and_nothing_rude_or_odd(start):
    answers = {
        text: _say(start, text)[1]
        for text in (
            "ok", "that is great", "that is stupid", "i like music too", "i like cats too",
            "ok do you like music ?", "like that is ok",
        )
    }  # fmt: skip
    plain = answers["ok"]
    assert answers["that is great"][dialogue.PLEASED] > 2 * plain[dialogue.PLEASED]
    assert answers["that is great"][dialogue.LEAVES] < 0.5 * plain[dialogue.LEAVES]
    assert answers["that is stupid"][dialogue.HURT] > 5 * plain[dialogue.HURT]
    topical, other = answers["i like music too"], answers["i like cats too"]
    assert topical[dialogue.ASKS] > 1.3 * other[dialogue.ASKS]
    question = answers["ok do you like music ?"]
    assert question[dialogue.LEAVES] < 0.7 * plain[dialogue.LEAVES]
    odd = answers["like that is ok"]  # two pairs that nobody says
    assert odd[dialogue.CONFUSED] > 0.3 > 10 * plain[dialogue.CONFUSED]


def test_rewards_are_those_of_the_drawn_acts(start):
    before, chances = _say(start, "that is great")
    keys = jax.random.split(jax.random.key(1), 4000)
    end = jnp.int32(dialogue.END)
    observations, states, rewards, terminated, _, _ = jax.jit(
        jax.vmap(ENVIRONMENT.step, (0, None, None, None))
    )(keys, before, end, PARAMS)
    worth = np.array([1.2, 0.7, 0.2, -0.5, -1.0, 0.0])
    assert np.mean(rewards) == pytest.approx(float(chances @ worth), abs=0.04)
    assert np.mean(terminated) == pytest.approx(float(chances[dialogue.LEAVES]), abs=0.03)
    assert np.isclose(np.asarray(rewards)[:, None], worth, atol=1e-6).any(axis=1).all()
    assert (observations[:, -1] == dialogue.USER_END).all()
    assert (states.length == 0).all()
    texts = {dialogue.user_text(each) for each in np.unique(observations, axis=0)}
    assert texts >= {"that is great", "what ?", "i like music"}


def test_an_answer_is_cut_where_there_is_no_room(start):
    state = start
    for place in range(dialogue.MAX_WORDS):
        before = state
        _, state, *_ = STEP(jax.random.key(0), state, jnp.int32(3), PARAMS)
        expected = 0 if place == dialogue.MAX_WORDS - 1 else place + 1
        assert state.length == expected
    heard = dialogue._hear(before, jnp.int32(3))
    assert heard.odd == dialogue.MAX_WORDS  # nine repetitions and the cut


def test_the_context_is_the_text(start):
    state, _ = _say(start, "that is fun")
    words = [1 + word for word in dialogue.encode("that is fun")]
    np.testing.assert_array_equal(state.context, dialogue.append(np.asarray(start.context), words))


def test_the_speaker_says_usual_things_and_answers_the_users_topic(episodes):
    usual = dialogue.usual_pairs()
    answers = []
    for episode in episodes:
        last = len(dialogue.WORDS)
        for observation, word in zip(episode["observations"], episode["actions"], strict=False):
            if observation[-1] == dialogue.USER_END:
                last = len(dialogue.WORDS)
                tokens = observation.astype(int)
                user = tokens[np.flatnonzero(np.isin(tokens[:-1], (0, 1)))[-1] + 1 : -1]
                answers.append((set((user - 1).tolist()), set()))
            assert usual[last, word]
            answers[-1][1].add(int(word))
            last = word
    topics = {dialogue.WORDS.index(topic) for topic in dialogue.TOPICS}
    about = [(user & topics, answer & topics) for user, answer in answers if user & topics]
    assert len(about) > 50
    assert all(answer <= user for user, answer in about)


def test_conversations_end_with_the_user_and_rewards_come_at_the_ends_of_answers(episodes):
    for episode in episodes:
        ends = episode["actions"] == dialogue.END
        assert ends[-1]
        assert episode["terminations"][-1] != episode["truncations"][-1]
        assert not episode["rewards"][~ends].any()
        if episode["terminations"][-1]:
            assert episode["rewards"][-1] == 0.0
