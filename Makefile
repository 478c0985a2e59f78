# `make sweep` and `make test` set up everything they need; git, make and Python are enough.

PYTHON ?= python3
NAME =
KILLS =
SEED =
BIN := .venv/bin

.PHONY: setup sweep test check chaos bench lint format ui clean
.DELETE_ON_ERROR:

setup: .venv/installed

# Torch and torchvision come from one index as a matching pair, by uv, pinned with all others.
.venv/installed: pyproject.toml .ci/constraints.txt .ci/setup .ci/chromium
	PYTHON="$(PYTHON)" .ci/setup
	@touch $@

sweep: setup
	$(BIN)/rsas sweep experiments/digits_quickstart.py $(if $(NAME),--name $(NAME))

test: setup lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# In two minutes: all tests but those that start Ray, a server or a browser, end a process, or are slow.
check: setup lint
	$(BIN)/python -m pytest --numprocesses 2 -m "not resource and not slow"

chaos: setup
	$(BIN)/python -m tests.faults.chaos $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED))

bench: setup
	$(BIN)/python -m tests.benchmarks.step
	$(BIN)/python -m tests.benchmarks.compat
	$(BIN)/python -m tests.benchmarks.sweep
	$(BIN)/python -m tests.benchmarks.scheduler
	$(BIN)/python -m tests.benchmarks.scale
	$(BIN)/python -m tests.benchmarks.scale_mirror

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: setup
	$(BIN)/rsas ui

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
