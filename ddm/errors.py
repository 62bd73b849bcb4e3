"""Errors that a user can fix: each message is one sentence with the problem and the remedy."""

from __future__ import annotations


class DdmError(Exception):
    """Base of all errors that the runner prints as one sentence instead of a traceback."""


class InputError(DdmError, ValueError):
    """A file, field, flag or array is not what was expected."""


class LabelsNeededError(DdmError):
    """A run cannot go on before a person has labelled the states that it asks about."""


class DivergenceError(DdmError, ArithmeticError):
    """A metric became NaN or infinite during training."""


class EvaluationError(DdmError, RuntimeError):
    """A simulator failed while a policy was evaluated in it."""


class ProcessError(DdmError, RuntimeError):
    """Another process that shares the lanes of a run failed, or is gone."""


class MissingDependencyError(DdmError, ImportError):
    """An optional package is needed for what was asked, and is not installed."""
