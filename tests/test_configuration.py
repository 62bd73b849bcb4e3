import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.configuration import Configuration, leaf, static
from ddm.errors import InputError


class Config(Configuration):
    discount: float = leaf(0.99, "[0, 1)")
    log_std_min: float = leaf(-5.0, at_most="log_std_max")
    log_std_max: float = leaf(2.0)
    hidden_sizes: tuple[int, ...] = static((8, 8), "[1, inf)")


@pytest.mark.parametrize(
    ("field", "value"),
    [("discount", 1.0), ("discount", -0.1), ("discount", np.array([0.5, 99.0])),
     ("discount", float("nan")), ("log_std_min", 3.0), ("hidden_sizes", (8, 0))],
)  # fmt: skip
def test_numbers_outside_their_interval_are_refused_by_name(field, value):
    with pytest.raises(InputError, match=f"test_configuration: {field} is"):
        Config(**{field: value})
    with pytest.raises(InputError, match=field):
        Config().replace(**{field: value})


def test_ends_of_intervals_and_traced_values_pass():
    config = Config(discount=0.0, log_std_min=2.0)
    assert jax.jit(lambda c: c.discount + 1)(config) == 1.0
    stacked = jax.tree.map(lambda x: jnp.full(2, x), Config())
    assert jax.vmap(lambda c: c.discount)(stacked).shape == (2,)


def test_a_misspelt_interval_is_found_at_definition():
    with pytest.raises(ValueError, match="not an interval"):
        leaf(1.0, "0..1")
