# One command per job. `make train ARGS="optimizer=sgd seed=2"` passes overrides.
# uv makes the environment before each command; if it is missing, it is fetched into .uv/.
UV := $(shell command -v uv || echo .uv/bin/uv)
ARGS ?=
# The tests of a file run in one process: some build on the results of earlier ones.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile
# Without bytecode, each process that the tests start would compile the project anew.
test test-all: export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help setup train eval test test-all lint format tensorboard benchmark clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

train: $(UV) ## train, test, draw and save (ARGS="optimizer=sgd")
	$(UV) run train.py $(ARGS)

eval: $(UV) ## evaluate the newest run, or a checkpoint (ARGS="ckpt_path=...")
	$(UV) run eval.py $(ARGS)

test: $(UV) ## the test suite without its slow part (ARGS=--cov: and its coverage of src/digits, which takes longer)
	$(UV) run pytest $(PARALLEL) $(ARGS)

test-all: $(UV) ## the whole test suite, with full trainings and the commands of README and docs
	$(UV) run pytest $(PARALLEL) -m "" $(ARGS)

lint: $(UV) ## check style, formatting and types
	$(UV) run ruff check .
	$(UV) run ruff format --check .
	$(UV) run mypy

format: $(UV) ## correct style and formatting
	$(UV) run ruff check --fix .
	$(UV) run ruff format .

tensorboard: $(UV) ## curves, figures and hyperparameters of all runs, in the browser
	$(UV) run tensorboard --logdir logs

benchmark: $(UV) ## seconds per epoch, beside the loop that tutorials use
	$(UV) run python -m benchmarks.epoch_time $(ARGS)

setup: $(UV) ## only make the environment (ARGS="--extra wandb")
	$(UV) sync $(ARGS)

clean: ## remove environments and caches; keeps data and logs
	rm -rf .venv .uv .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*

# Debian's Python may lack venv: then pip installs uv there.
.uv/bin/uv:
	python3 -m venv .uv && .uv/bin/pip install --quiet uv || python3 -m pip install --quiet --target .uv uv
