"""Vectorised flattening equals gymnasium's, step by step."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces as gym
from gymnasium.spaces import flatten, flatten_space

from ddm.data import spaces
from ddm.errors import InputError
from ddm.types import Box, Discrete

NESTED = gym.Dict(
    {
        "zeta": gym.Box(-1, 1, (2, 2)),
        "alpha": gym.Discrete(3, start=1),
        "pair": gym.Tuple([gym.MultiDiscrete([2, 3]), gym.MultiBinary(2)]),
        "byte": gym.Box(0, 255, (2,), np.uint8),
    }
)


def stack(space, samples):
    """Columns of nested samples, nested alike."""
    if isinstance(space, gym.Dict):
        return {k: stack(sub, [s[k] for s in samples]) for k, sub in space.spaces.items()}
    if isinstance(space, gym.Tuple):
        return tuple(stack(sub, [s[i] for s in samples]) for i, sub in enumerate(space.spaces))
    return np.stack([np.asarray(s) for s in samples])


def to_tree(space):
    from minari.serialization import serialize_space

    return spaces.parse_space(json.loads(serialize_space(space)))


@pytest.mark.parametrize(
    "space",
    [
        NESTED,
        gym.Box(-1, 1, (3,)),
        gym.Box(-1, 1, (2, 3)),
        gym.Discrete(4, start=-1),
        gym.MultiDiscrete([2, 3]),
        gym.Tuple([gym.Discrete(2), NESTED]),
    ],
    ids=lambda space: type(space).__name__,
)
@pytest.mark.parametrize("parse", [spaces.parse_space, to_tree])
def test_flatten_as_gymnasium(space, parse):
    space.seed(0)
    samples = [space.sample() for _ in range(5)]
    tree = parse(space)
    nested = stack(space, samples)
    columns = [spaces.pick(nested, leaf, "x") for leaf in spaces.leaves(tree)]
    flat = spaces.flatten(tree, columns, "x")
    np.testing.assert_allclose(flat, [flatten(space, s) for s in samples], rtol=1e-6)
    expected = flatten_space(space)
    box = spaces.flat_space(tree)
    assert box.shape == expected.shape == flat.shape[1:]
    np.testing.assert_array_equal(box.low, expected.low.ravel())
    np.testing.assert_array_equal(box.high, expected.high.ravel())


def test_own_spaces_and_bounds_parse():
    assert spaces.flat_space(spaces.parse_space(Box((2,), (0.0, 1.0), (2.0, 3.0)))) == Box(
        (2,), (0.0, 1.0), (2.0, 3.0)
    )
    assert spaces.flat_space(spaces.parse_space(Discrete(2))).shape == (2,)
    assert spaces.flat_space(spaces.parse_space((-1.0, [1.0, 2.0]))).high == (1.0, 2.0)


def test_images_stay_bytes():
    space = gym.Box(0, 255, (4, 4, 3), np.uint8)
    image = np.ones((2, 4, 4, 3), np.uint8)
    assert spaces.flatten(spaces.parse_space(space), [image], "x") is image


def test_errors_name_the_leaf():
    tree = spaces.parse_space(NESTED)
    leaves = {leaf.name("observations"): leaf for leaf in spaces.leaves(tree)}
    with pytest.raises(InputError, match="episode 3: zeta is missing"):
        spaces.pick({}, leaves["observations/zeta"], "episode 3")
    value = {"pair": (np.zeros((1, 2)), np.zeros((1, 5)))}
    with pytest.raises(InputError, match="pair/_index_1 has steps of shape"):
        spaces.pick(value, leaves["observations/pair/_index_1"], "episode 3")
    with pytest.raises(InputError, match=r"x: row 1 is 4, its space has the integers 1 .. 3"):
        spaces.flatten(spaces.parse_space(gym.Discrete(3, start=1)), [np.array([1, 4])], "x")
    with pytest.raises(InputError, match="space of type Text cannot be flattened"):
        spaces.parse_space(gym.Text(3))
