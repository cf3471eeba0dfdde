# A command for each job. `make train ARGS="optimizer=sgd seed=2"` hands overrides on.
# uv makes the environment before each command; where it is missing, it is fetched into .uv/.
UV := $(shell command -v uv || echo .uv/bin/uv)
ARGS ?=
# Of a part of the tests, coverage would say little.
COVERAGE := $(if $(ARGS),,--cov)
# A file's tests stay in one process: some build on what the ones before them left.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup train eval test test-all lint format tensorboard benchmark clean

help: ## what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

train: $(UV) ## train, test, draw and save (ARGS="optimizer=sgd")
	$(UV) run train.py $(ARGS)

eval: $(UV) ## evaluate a checkpoint (ARGS="ckpt_path=...")
	$(UV) run eval.py $(ARGS)

test: $(UV) ## the test suite, without its slow part, and how much of src/digits it covers
	$(UV) run pytest $(PARALLEL) $(COVERAGE) $(ARGS)

test-all: $(UV) ## the whole test suite, full trainings and the README's commands included
	$(UV) run pytest $(PARALLEL) -m "" $(ARGS)

lint: $(UV) ## check style, formatting and types
	$(UV) run ruff check .
	$(UV) run ruff format --check .
	$(UV) run mypy

format: $(UV) ## mend style and formatting
	$(UV) run ruff check --fix .
	$(UV) run ruff format .

tensorboard: $(UV) ## curves, figures and hyperparameters of all runs, in the browser
	$(UV) run tensorboard --logdir logs

benchmark: $(UV) ## seconds an epoch, beside the loop that tutorials use
	$(UV) run python -m benchmarks.epoch_time $(ARGS)

setup: $(UV) ## only make the environment (ARGS="--extra wandb")
	$(UV) sync $(ARGS)

clean: ## remove environments and caches; keeps data and logs
	rm -rf .venv .uv .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*

# Debian has Python without venv: then pip puts uv there.
.uv/bin/uv:
	python3 -m venv .uv && .uv/bin/pip install --quiet uv || python3 -m pip install --quiet --target .uv uv
