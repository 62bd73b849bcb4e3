# `make demo` and `make test` do all set-up on a bare machine with Python 3.11 or newer.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN = $(VENV)/bin
WORKERS ?= 2
TESTS ?=

.PHONY: demo test test-all test-oldest test-oldest-all nightly lint types sim clean

$(BIN)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[dev]"
	touch $@

# Point maze: logged trajectories cover two halves of the way; BC fails where offline RL stitches.
demo: $(BIN)/.installed
	$(BIN)/python experiments/demo.py

test: $(BIN)/.installed
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup $(TESTS)

# With the tests that compile too much for every change.
test-all:
	$(MAKE) test TESTS="-m ''"

# The oldest versions we claim, where jax's and flax's surface is touched once: networks, one
# configuration of each algorithm that starts, learns twice and acts, lanes and checkpoints.
OLDEST = tests/networks tests/runner/test_lanes.py tests/runner/test_checkpoints.py \
	tests/test_contract.py::test_update_is_deterministic_and_keeps_structure \
	tests/test_contract.py::test_act_gives_one_action_and_keeps_the_policy_states_structure

test-oldest:
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt \
		TESTS="-m 'not newest and not slow' $(OLDEST)"

# The same on all that computes; for a nightly run, beside `make test-all`.
test-oldest-all:
	$(MAKE) test-oldest OLDEST="tests/ops tests/networks tests/test_contract.py \
		tests/runner/test_lanes.py tests/runner/test_checkpoints.py"

# Every night: all tests, on the oldest versions too, and what counts how runs and readers meet damage.
nightly: test-all test-oldest-all
	$(BIN)/python benchmarks/mutation.py
	$(BIN)/python benchmarks/kills.py --kills=60 --writers=5 --files=396
	$(BIN)/python benchmarks/damaged_inputs.py --count=60
	$(BIN)/python benchmarks/processes.py

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/.installed
	$(BIN)/basedpyright

# MuJoCo and gymnasium-robotics, for datasets whose policies are scored there.
sim: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[sim,dev]"

clean:
	rm -rf $(VENV) .venv-oldest
