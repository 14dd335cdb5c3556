# The two commands of a new user: `make demo` and `make test`. Both make .venv from the lock when it is missing or stale.
PYTHON ?= python3
VENV := .venv
TRAINER_VENV := .venv-trainer
OPENCLIP_VENV := .venv-openclip
WORKERS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
TRAINER_ENV := $(TRAINER_VENV)/.environment
TRAINER_STAMP := $(TRAINER_VENV)/.stamp
OPENCLIP_STAMP := $(OPENCLIP_VENV)/.stamp
PIP := -m pip --disable-pip-version-check --quiet

.PHONY: help demo serve test test-long openclip-env check format bench lock docs clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): requirements.lock pyproject.toml library/pyproject.toml
	@echo "making $(VENV) from requirements.lock (about two minutes, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Superbatch needs Python 3.11 or newer")'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python $(PIP) install -r requirements.lock
	@$(BIN)/python $(PIP) install --no-deps --no-build-isolation --editable library --editable .
	@touch $@

$(TRAINER_ENV): requirements-trainer.lock
	@echo "making $(TRAINER_VENV): the trainer has an environment of its own, with torch and the superbatch wheel"
	@$(PYTHON) -m venv --clear $(TRAINER_VENV)
	@$(TRAINER_VENV)/bin/python $(PIP) install -r requirements-trainer.lock
	@touch $@

$(TRAINER_STAMP): $(TRAINER_ENV) $(STAMP) $(shell find library/superbatch -name '*.py')
	@rm -rf library/build
	@$(BIN)/python $(PIP) wheel --no-deps --no-build-isolation --wheel-dir $(TRAINER_VENV)/wheels ./library
	@$(TRAINER_VENV)/bin/python $(PIP) install --no-deps --force-reinstall $(TRAINER_VENV)/wheels/superbatch-*.whl
	@touch $@

$(OPENCLIP_STAMP): deploy/requirements-openclip.lock library/pyproject.toml
	@echo "making $(OPENCLIP_VENV): open_clip, which imports torchvision, has an environment of its own (6 GB)"
	@$(PYTHON) -m venv --clear $(OPENCLIP_VENV)
	@$(OPENCLIP_VENV)/bin/python $(PIP) install -r deploy/requirements-openclip.lock
	@$(OPENCLIP_VENV)/bin/python $(PIP) install --no-deps --no-build-isolation --editable library
	@touch $@

demo: $(STAMP) $(TRAINER_STAMP) ## the main job, end to end, on the sample data (KEEP=1 leaves the service running)
	@$(BIN)/superbatch demo --trainer-python $(TRAINER_VENV)/bin/python $(if $(KEEP),--keep)

serve: $(STAMP) ## the service alone, on its embedded defaults
	@$(BIN)/superbatch serve

test: $(STAMP) ## the tests, files spread over WORKERS=2 processes
	@$(BIN)/python -m pytest -m "not long" --numprocesses $(WORKERS) --dist loadfile

test-long: $(STAMP) ## the proofs that take minutes
	@$(BIN)/python -m pytest -m long

openclip-env: $(OPENCLIP_STAMP) ## the environment in which test-long runs open_clip's own trainer

check: $(STAMP) ## format, lint, types, import layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## write the format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## every benchmark, quick
	@for theme in benchmarks/*.py; do $(BIN)/python $$theme --quick || exit 1; done

docs: $(STAMP) ## write again what is made from the program: openapi.json, reference.md, settings.md, errors.md
	@$(BIN)/python -m superbatch_server.service.describing.openapi docs/openapi.json
	@$(BIN)/python -m superbatch_server.service.describing.reference docs/reference.md docs/settings.md docs/errors.md

lock: $(STAMP) ## resolve the lock files anew (needs uv in .venv)
	@$(BIN)/python deploy/lock.py

clean: ## remove the environments
	@rm -rf $(VENV) $(TRAINER_VENV) $(OPENCLIP_VENV)
