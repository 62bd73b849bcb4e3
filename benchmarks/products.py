"""Counts the matrix products of a function from its jaxpr, and times them alone.

The count is that of the program as it was written, so three rules are needed:

- A scan counts its body as often as it runs. A while loop counts once, because the number of its
  turns is not known before it runs.
- A `cond` counts its most expensive branch.
- What no output needs is left out, as the compiler does. The compiler also computes equal products
  only once, and the count does not know that: a network that is applied twice at the same inputs
  and parameters counts twice.
"""

from __future__ import annotations

import collections
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

Product = tuple[int, int, int, int]  # members, rows, inner, columns

# More products of one size than this are timed in a loop of their own: thousands, written one
# after the other, would compile for minutes.
UNROLLED = 24


def count(function: Callable[..., Any], *arguments: Any) -> collections.Counter[Product]:
    """How many products of each size one call makes.

    Args:
      function: pure; it is traced and not run.
      *arguments: arrays, or their shapes and types as `jax.ShapeDtypeStruct`.

    Returns:
      Numbers of products (members, rows, inner, columns): `members` products of a matrix
      (rows, inner) and a matrix (inner, columns). A convolution is the product of its patches and
      its kernel, with a member for each group of channels.
    """
    traced = jax.make_jaxpr(function)(*arguments).jaxpr
    needed, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
    return _count(needed)


def operations(counted: Mapping[Product, int]) -> float:
    """Multiplications and additions of all products."""
    return sum(2.0 * math.prod(product) * times for product, times in counted.items())


def _count(jaxpr: Any) -> collections.Counter[Product]:
    total: collections.Counter[Product] = collections.Counter()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total[_of_dot(equation)] += 1
        elif name == "conv_general_dilated":
            total[_of_convolution(equation)] += 1
        inner = [_count(each) for each in _inner_jaxprs(equation.params)]
        if name == "cond":
            inner = [max(inner, key=operations)]
        times = equation.params["length"] if name == "scan" else 1
        for each in inner:
            total.update({product: times * number for product, number in each.items()})
    return total


def _inner_jaxprs(params: Mapping[str, Any]) -> Iterator[Any]:
    """The bodies of loops, branches and functions among the parameters of an equation."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else [value]:
            if hasattr(each, "eqns"):
                yield each
            elif hasattr(each, "jaxpr"):
                yield each.jaxpr


def _of_dot(equation: Any) -> Product:
    (left_inner, right_inner), (left_members, right_members) = equation.params["dimension_numbers"]
    left, right = (operand.aval.shape for operand in equation.invars)
    return (
        math.prod(left[i] for i in left_members),
        math.prod(n for i, n in enumerate(left) if i not in (*left_members, *left_inner)),
        math.prod(left[i] for i in left_inner),
        math.prod(n for i, n in enumerate(right) if i not in (*right_members, *right_inner)),
    )


def _of_convolution(equation: Any) -> Product:
    params = equation.params
    numbers = params["dimension_numbers"]  # axes of rows, channels, then places
    kernel, output = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    groups = params["feature_group_count"] * params["batch_group_count"]
    rows_axis, channel_axis, *place_axes = numbers.out_spec
    # The gradient of a convolution with strides spreads its input by zeros, which cost nothing.
    zeros = math.prod(params["lhs_dilation"])
    places = math.prod(output[i] for i in place_axes) // zeros
    return (
        groups,
        output[rows_axis] * places,
        math.prod(kernel[i] for i in numbers.rhs_spec[1:]),
        output[channel_axis] // groups,
    )


def floor_timer(
    counted: Mapping[Product, int], minibatches: int, seconds: float
) -> Callable[[], float]:
    """A function that returns the seconds of all products of a gradient step, and nothing else.

    The products of an update run in one compiled loop, each with operands and a result buffer of
    its own. Once none waits for another, so that the compiler may overlap them, as it does with
    the independent products of an update; once each waits for the one before, which leaves more
    cache to each. The faster way counts.

    Args:
      counted: the products of an update, at least one.
      minibatches: gradient steps in an update.
      seconds: about the length of one measurement.
    """
    plans, operands = _operands(counted)

    @functools.partial(jax.jit, static_argnames=("in_order", "repeats"))
    def loop(operands: Any, in_order: bool, repeats: int) -> Any:
        return jax.lax.fori_loop(
            0,
            repeats,
            lambda turn, _: _multiply(plans, operands, turn, in_order),
            jax.tree.map(jnp.zeros_like, _multiply(plans, operands, 0, in_order)),
        )

    repeats = max(2, int(0.5 * seconds * 5e10 / operations(counted)))

    def seconds_of(in_order: bool) -> float:
        start = time.perf_counter()
        jax.block_until_ready(loop(operands, in_order=in_order, repeats=repeats))
        return (time.perf_counter() - start) / (repeats * minibatches)

    def floor() -> float:
        return min(seconds_of(False), seconds_of(True))

    floor()  # compiles
    return floor


class _Plan(NamedTuple):
    """How one pair of operands is multiplied."""

    left_changes: bool  # the left operand is another one in every turn; otherwise the right one
    times: int  # how often in one turn


def _operands(counted: Mapping[Product, int]) -> tuple[list[_Plan], list[Any]]:
    """Random operands; the smaller one of each pair comes in two versions, (2, ...)."""
    keys = iter(jax.random.split(jax.random.key(0), 2 * UNROLLED * len(counted)))
    plans, operands = [], []
    for (members, rows, inner, columns), times in counted.items():
        shapes = ((members, rows, inner), (members, inner, columns))
        if members == 1:
            shapes = (shapes[0][1:], shapes[1][1:])
        copies, each = (times, 1) if times <= UNROLLED else (1, times)
        for _ in range(copies):
            left, right = (jax.random.normal(next(keys), shape) for shape in shapes)
            plans.append(_Plan(rows < columns, each))
            changing, fixed = (left, right) if rows < columns else (right, left)
            operands.append((jnp.stack([changing, -changing]), fixed))
    return plans, operands


def _multiply(plans: list[_Plan], operands: list[Any], turn: Any, in_order: bool) -> list[Any]:
    """All products once. An operand changes with `turn`, or a loop about them would be empty."""
    outputs: list[Any] = []
    for plan, pair in zip(plans, operands, strict=True):
        if in_order and outputs:  # adds 0, which the compiler cannot know
            turn = turn + jnp.isnan(outputs[-1].ravel()[0]).astype(jnp.int32)
        output = _product(plan, pair, turn)
        if plan.times > 1:
            again = functools.partial(_product_again, plan, pair, turn)
            output = jax.lax.fori_loop(1, plan.times, again, output)
        outputs.append(output)
    return outputs


def _product(plan: _Plan, pair: tuple[jax.Array, jax.Array], turn: Any) -> jax.Array:
    versions, fixed = pair
    changing = versions[turn % 2]
    return changing @ fixed if plan.left_changes else fixed @ changing


def _product_again(plan: _Plan, pair: Any, turn: Any, i: jax.Array, _: jax.Array) -> jax.Array:
    return _product(plan, pair, turn + i)
