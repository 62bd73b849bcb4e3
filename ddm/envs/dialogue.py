"""Small talk, one word at a time, with a simulated user whose reactions are the reward.

The user says something; the agent answers with words, one per step, until it says "<end>" or
reaches the maximum length. Then the user reacts, and so on until the user leaves. Nobody labels
answers: the user's next act gives the reward of an answer (being pleased, asking back, staying,
being hurt, not understanding). Jaques et al. (2019) take rewards from conversations in the same
way. Users like friendly words, questions and their own topic; they do not like rudeness; they leave
after dull answers; and they do not understand words in an unusual order.

:func:`speaker_policy` talks like an ordinary person, by a grammar of short answers: the text that a
language model is trained on. Observations are the last `CONTEXT` tokens, as numbers: 0 before the
conversation, 1 + word for a word, `USER_END` after the user's last word.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm.envs import base
from ddm.errors import InputError
from ddm.types import Box, Discrete, PRNGKey

TOPICS = ("music", "food", "movies", "rain", "work", "cats")
FRIENDLY = ("great", "nice", "fun", "happy", "glad", "thanks", "love")
RUDE = ("bad", "boring", "stupid", "hate")
DULL = ("ok", "hm", "know", "yes", "no")
WORDS = (
    "<end>", "?", *TOPICS, *FRIENDLY, *RUDE, *DULL,
    "i", "you", "it", "is", "are", "am", "do", "that", "what", "how", "about", "like", "not",
    "too", "sad", "hello", "sorry", "tell", "me", "more", "today", "so", "the", "goodbye",
)  # fmt: skip
END = 0  # the word "<end>"
USER_END = len(WORDS) + 1  # the token after a user's utterance
NUM_TOKENS = len(WORDS) + 2
CONTEXT = 16  # tokens in an observation: the user's utterance and the answer so far
MAX_WORDS = 10  # of an answer, with "<end>"

# What the user may do; the last one ends the conversation. An act's utterances and their weights.
PLEASED, ASKS, STATES, CONFUSED, HURT, LEAVES = range(6)
_USER_TEXT: tuple[dict[str, float], ...] = (
    {"that is great": 2, "you are nice": 1, "thanks that is nice": 1, "i am glad": 1},
    {"do you like T ?": 2, "what about T ?": 1, "how about T ?": 1, "how are you ?": 1},
    {"i like T": 2, "T is fun": 1, "i hate T": 1, "i am sad today": 0.5, "i am happy today": 0.5},
    {"what ?": 2, "i do not know that": 1},
    {"that is not nice": 2, "you are boring": 1},
)
_GREETINGS = {"hello": 1.0, "hello how are you ?": 1.0}

# The speaker's answers are an opening and, now and then, a second sentence.
_OPENINGS = {
    "ok": 3.0, "hm": 2.0, "i do not know": 3.0, "yes": 2.0, "no": 2.0,
    "that is great": 1.0, "i am glad": 0.6, "you are nice": 0.4, "thanks": 0.5,
    "i like T too": 1.2, "i love T": 0.6, "T is fun": 0.8, "T is boring": 1.0, "i hate T": 0.8,
    "that is stupid": 0.8, "you are boring": 0.7, "that is bad": 0.6,
}  # fmt: skip
_SECONDS = {
    "": 8.0, "tell me more": 1.0, "what about you ?": 1.0, "how are you ?": 0.5,
    "do you like T ?": 1.0,
}  # fmt: skip
_ANSWERS_TO = {  # words of the user to further openings
    "hello": {"hello": 10.0, "i am happy": 2.0, "i am sad": 2.0},
    "sad": {"sorry": 4.0, "i am sad too": 2.0},
}


@struct.dataclass
class EnvState(base.EnvState):
    """The conversation, and what the user has noticed of the present answer."""

    context: jax.Array  # (CONTEXT,) int32 tokens
    topic: jax.Array  # int32, of the user's last utterance; len(TOPICS): none
    mentioned: jax.Array  # int32, the answer's topic; len(TOPICS): none
    last_word: jax.Array  # int32; len(WORDS) at the answer's start
    length: jax.Array  # int32, words of the answer
    friendly: jax.Array  # int32, friendly words in it
    rude: jax.Array  # int32
    dull: jax.Array  # int32
    odd: jax.Array  # int32, pairs of neighbours in it that the grammar never makes


@struct.dataclass
class EnvParams(base.EnvParams):
    """How long a conversation may be, and the rewards of the user's acts."""

    max_steps: int | jax.Array = 120  # words of the agent
    pleased_reward: float = 1.0
    asked_reward: float = 0.5  # for a question from the user
    stay_reward: float = 0.2  # for any act except leaving, added to the act's own
    confused_reward: float = -0.7
    hurt_reward: float = -1.2


class _Tables(NamedTuple):
    """The grammar, expanded."""

    user_tokens: np.ndarray  # (U, L) int32 left-aligned, with USER_END
    user_lengths: np.ndarray  # (U,) int32
    user_topics: np.ndarray  # (U,) int32
    user_weights: np.ndarray  # (acts, topics, U) of an act about a topic; the last act greets
    answers: np.ndarray  # (R, MAX_WORDS) int32 words, filled up with END
    answer_weights: np.ndarray  # (U, R) of the speaker
    usual: np.ndarray  # (W + 1, W) bool: pairs of neighbours; the last row starts


@dataclasses.dataclass(frozen=True)
class Dialogue(base.Environment):
    """Observation the last tokens, action the next word; terminates where the user leaves."""

    name: str = "Dialogue-v0"

    @property
    def default_params(self) -> EnvParams:
        """Rewards of the user's acts."""
        return EnvParams()

    def reset(self, key: PRNGKey, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """A greeting, or an utterance about a topic."""
        del params
        act_key, topic_key, text_key = jax.random.split(key, 3)
        choices = jnp.array([len(_USER_TEXT), ASKS, STATES], jnp.int32)
        act = choices[jax.random.randint(act_key, (), 0, len(choices), jnp.int32)]
        topic = jax.random.randint(topic_key, (), 0, len(TOPICS), jnp.int32)
        blank = jnp.zeros((CONTEXT,), jnp.int32)
        context, topic = _user_speaks(text_key, blank, act, topic)
        state = _new_answer(jnp.zeros((), jnp.int32), context, topic)
        return context.astype(jnp.float32), state

    def step(
        self, key: PRNGKey, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, base.Info]:
        """One word; if it ends the answer, the user reacts."""
        act_key, topic_key, text_key = jax.random.split(key, 3)
        heard = _hear(state, action.astype(jnp.int32))
        over = (action == END) | (heard.length >= MAX_WORDS)
        act = jax.random.categorical(act_key, reaction_logits(heard)).astype(jnp.int32)
        random_topic = jax.random.randint(topic_key, (), 0, len(TOPICS), jnp.int32)
        topic = jnp.where(heard.mentioned < len(TOPICS), heard.mentioned, random_topic)
        spoken = jnp.minimum(act, LEAVES - 1)  # the words of a user who leaves are not observed
        context, topic = _user_speaks(text_key, heard.context, spoken, topic)
        fresh = _new_answer(heard.time, context, topic)
        state = jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, heard)
        rewards = jnp.array(
            [
                params.stay_reward + params.pleased_reward,
                params.stay_reward + params.asked_reward,
                params.stay_reward,
                params.stay_reward + params.confused_reward,
                params.stay_reward + params.hurt_reward,
                0.0,
            ],
            jnp.float32,
        )
        reward = jnp.where(over, rewards[act], 0.0).astype(jnp.float32)
        terminated = over & (act == LEAVES)
        truncated = base.is_truncated(state.time, terminated, params)
        return state.context.astype(jnp.float32), state, reward, terminated, truncated, {}

    def observation_space(self, params: EnvParams) -> Box:
        """Token numbers."""
        del params
        return Box(shape=(CONTEXT,), low=(0.0,) * CONTEXT, high=(NUM_TOKENS - 1.0,) * CONTEXT)

    def action_space(self, params: EnvParams) -> Discrete:
        """The words."""
        del params
        return Discrete(len(WORDS))


def reaction_logits(heard: EnvState) -> jax.Array:
    """(6,) logits of the user's acts after an answer."""
    friendly, rude, odd, dull = (
        jnp.minimum(count, most).astype(jnp.float32)
        for count, most in ((heard.friendly, 2), (heard.rude, 2), (heard.odd, 3), (heard.dull, 1))
    )
    # "<end>" is the last word of most answers; the word before it shows whether they are questions.
    asks = _ends_with_question(heard).astype(jnp.float32)
    topical = (heard.mentioned == heard.topic) & (heard.topic < len(TOPICS))
    topical = topical.astype(jnp.float32)
    return jnp.stack(
        [
            -1.0 + 1.2 * friendly + 0.6 * topical - 1.5 * rude - 1.5 * odd,
            -1.0 + 0.4 * friendly + 0.8 * topical + 0.8 * asks - 1.0 * odd,
            0.0 + 0.5 * asks - 0.5 * odd,
            -3.0 + 2.0 * odd,
            -3.0 + 2.5 * rude,
            -0.5 + 0.8 * rude - 0.7 * friendly - 1.0 * asks + 0.8 * dull + 0.7 * odd,
        ]
    )


def speaker_policy(
    observation: jax.Array, key: PRNGKey, policy_state: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The ordinary person: draws an answer when the user has finished, and says it word by word.

    Args:
      observation: (CONTEXT,) tokens.
      key: PRNG key.
      policy_state: the answer (MAX_WORDS,) and the next place in it; :func:`speaker_start`.
    """
    tables = _tables()
    answer, place = policy_state
    tokens = observation.astype(jnp.int32)
    row = _recognise(tokens)
    drawn = jax.random.categorical(key, jnp.log(jnp.asarray(tables.answer_weights))[row])
    begins = tokens[-1] == USER_END
    answer = jnp.where(begins, jnp.asarray(tables.answers)[drawn], answer)
    place = jnp.where(begins, 0, place)
    return answer[place], (answer, place + 1)


def speaker_start(key: PRNGKey) -> tuple[jax.Array, jax.Array]:
    """The speaker's policy state before a conversation."""
    del key
    return jnp.zeros((MAX_WORDS,), jnp.int32), jnp.zeros((), jnp.int32)


def usual_pairs() -> np.ndarray:
    """(W + 1, W) bool: which word may follow each word; the last row: which may begin an answer."""
    return _tables().usual


def encode(text: str) -> list[int]:
    """Words of a text as numbers; a question mark is a word.

    Raises:
      InputError: naming the words that are unknown.
    """
    words = text.lower().replace("?", " ? ").replace(".", " ").replace(",", " ").split()
    unknown = sorted({word for word in words if word not in WORDS[1:]})
    if unknown:
        raise InputError(f"unknown words: {', '.join(unknown)}")
    return [WORDS.index(word) for word in words]


def decode(words: Iterable[int]) -> str:
    """Words as text, up to the first "<end>"."""
    said = itertools.takewhile(lambda word: word != END, map(int, words))
    return " ".join(WORDS[word] for word in said)


def user_text(observation: jax.Array) -> str:
    """The user's last utterance, at the start of an answer."""
    tables = _tables()
    row = int(_recognise(jnp.asarray(observation).astype(jnp.int32)))
    return decode(tables.user_tokens[row, : tables.user_lengths[row] - 1] - 1)


def append(context: np.ndarray, tokens: Iterable[int]) -> np.ndarray:
    """The context (CONTEXT,) after further tokens."""
    joined = np.concatenate([context, np.asarray(list(tokens), context.dtype)])
    return joined[-CONTEXT:]


def _new_answer(time: jax.Array, context: jax.Array, topic: jax.Array) -> EnvState:
    """The state in which the agent's answer begins."""
    zero = jnp.zeros((), jnp.int32)
    return EnvState(
        time=time, context=context, topic=topic.astype(jnp.int32),
        mentioned=jnp.full((), len(TOPICS), jnp.int32),
        last_word=jnp.full((), len(WORDS), jnp.int32),
        length=zero, friendly=zero, rude=zero, dull=zero, odd=zero,
    )  # fmt: skip


def _hear(state: EnvState, word: jax.Array) -> EnvState:
    """The state after one more word of the agent."""
    length = state.length + 1
    usual = jnp.asarray(usual_pairs())[state.last_word, word]
    cut = (length >= MAX_WORDS) & (word != END)
    is_topic = (word >= _TOPIC) & (word < _TOPIC + len(TOPICS))
    context = jnp.concatenate([state.context[1:], (word + 1)[None]])
    return dataclasses.replace(
        state,
        time=state.time + 1,
        context=context,
        mentioned=jnp.where(is_topic, word - _TOPIC, state.mentioned),
        last_word=word,
        length=length,
        friendly=state.friendly + _is_in(word, FRIENDLY),
        rude=state.rude + _is_in(word, RUDE),
        dull=state.dull + _is_in(word, DULL),
        odd=state.odd + (~usual).astype(jnp.int32) + cut.astype(jnp.int32),
    )


def _is_in(word: jax.Array, words: tuple[str, ...]) -> jax.Array:
    return jnp.isin(word, jnp.array([WORDS.index(each) for each in words], jnp.int32)).astype(
        jnp.int32
    )


def _ends_with_question(heard: EnvState) -> jax.Array:
    last = jnp.where(heard.last_word == END, heard.context[-2], heard.context[-1])
    return last == 1 + WORDS.index("?")


def _user_speaks(
    key: PRNGKey, context: jax.Array, act: jax.Array, topic: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The context after an utterance of this act, and the utterance's topic."""
    tables = _tables()
    row = jax.random.categorical(key, jnp.log(jnp.asarray(tables.user_weights))[act, topic])
    joined = jnp.concatenate([context, jnp.asarray(tables.user_tokens)[row]])
    start = jnp.asarray(tables.user_lengths)[row]
    context = jax.lax.dynamic_slice(joined, (start,), (CONTEXT,))
    return context, jnp.asarray(tables.user_topics)[row]


def _recognise(tokens: jax.Array) -> jax.Array:
    """The user's utterance at the end of a context; the longest that fits."""
    tables = _tables()
    endings = np.zeros((len(tables.user_tokens), CONTEXT), np.int32)  # right-aligned
    for row, size in enumerate(tables.user_lengths):
        endings[row, CONTEXT - size :] = tables.user_tokens[row, :size]
    tokens = jnp.broadcast_to(tokens, endings.shape)
    fits = jnp.all((jnp.asarray(endings) == tokens) | (jnp.asarray(endings) == 0), axis=-1)
    return jnp.argmax(jnp.where(fits, jnp.asarray(tables.user_lengths), 0))


_TOPIC = WORDS.index(TOPICS[0])


@functools.cache
def _tables() -> _Tables:
    """Expands the grammar."""
    texts, topics, weights = _user_utterances()
    answers, answer_weights = _answers(texts, topics)
    tokens = [[1 + word for word in encode(text)] + [USER_END] for text in texts]
    width = max(map(len, tokens))
    padded = [row + [0] * (width - len(row)) for row in tokens]
    usual = np.zeros((len(WORDS) + 1, len(WORDS)), bool)
    for answer in answers:
        words = [*encode(answer), END]
        usual[[len(WORDS), *words[:-1]], words] = True
    spelled = [[*encode(answer)] for answer in answers]
    return _Tables(
        user_tokens=np.array(padded, np.int32),
        user_lengths=np.array([len(row) for row in tokens], np.int32),
        user_topics=np.array(topics, np.int32),
        user_weights=weights,
        answers=np.array([row + [END] * (MAX_WORDS - len(row)) for row in spelled], np.int32),
        answer_weights=answer_weights,
        usual=usual,
    )


def _user_utterances() -> tuple[list[str], list[int], np.ndarray]:
    """All utterances, their topics, and weights (acts, topics, U)."""
    acts = (*_USER_TEXT, _GREETINGS)
    found: dict[str, int] = {}
    entries = []
    for act, about in itertools.product(range(len(acts)), range(len(TOPICS))):
        for template, weight in acts[act].items():
            text = template.replace("T", TOPICS[about])
            found.setdefault(text, about if "T" in template else len(TOPICS))
            entries.append((act, about, list(found).index(text), weight))
    weights = np.zeros((len(acts), len(TOPICS), len(found)), np.float32)
    for act, about, row, weight in entries:
        weights[act, about, row] = weight
    return list(found), list(found.values()), weights


def _answers(texts: list[str], topics: list[int]) -> tuple[list[str], np.ndarray]:
    """All answers of the speaker, and their weights (U, R) after each utterance."""
    rows = [dict(_speaker_answers(*utterance)) for utterance in zip(texts, topics, strict=True)]
    answers = sorted({answer for row in rows for answer in row})
    weights = [[row.get(answer, 0.0) for answer in answers] for row in rows]
    return answers, np.array(weights, np.float32)


def _speaker_answers(text: str, topic: int) -> Iterator[tuple[str, float]]:
    """Answers to an utterance; if it has no topic, answers about all topics."""
    further = {
        opening: weight
        for word, openings in _ANSWERS_TO.items()
        if word in text.split()
        for opening, weight in openings.items()
    }
    abouts = TOPICS if topic == len(TOPICS) else (TOPICS[topic],)
    counts: dict[str, float] = {}
    for about in abouts:
        for opening, second in itertools.product(_OPENINGS | further, _SECONDS):
            answer = f"{opening} {second}".strip().replace("T", about)
            weight = (_OPENINGS | further)[opening] * _SECONDS[second] / len(abouts)
            counts[answer] = counts.get(answer, 0.0) + weight
    yield from counts.items()
