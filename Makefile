# The whole set-up: `make demo` shows a deploy, `make test` runs the tests, `make check` runs the linters.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILTIN := $(wildcard runsdeploy/builtin/lib/* runsdeploy/builtin/scripts/cron/*)
INSTALLED := $(VENV)/.installed
# More workers than cores, because many tests wait.
WORKERS ?= 3
PYTEST_ARGS ?=

# Otherwise each of the thousands of programs that the tests start would compile its modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test chaos check format lowest release bench man clean packages

demo: $(INSTALLED)
	@$(BIN)/python -m tests.demo

# Workers that crash are not replaced: xdist would wait forever for their remaining tests (its issue 1327).
test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --max-worker-restart 0 --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

# All fault tests in full: cuts, kills, full disks, power cuts. `make test` runs a sample of each.
chaos: $(INSTALLED)
	RUNSDEPLOY_TEST_FULL=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --max-worker-restart 0 tests/chaos $(PYTEST_ARGS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/shellcheck runsdeploy/shell/*.sh runsdeploy/shell/lib/*.sh $(BUILTIN) .ci/*
	$(BIN)/shfmt -i 4 -d runsdeploy/shell .ci
	$(BIN)/shfmt -i 4 -ln bash -d $(BUILTIN)
	@! grep -rnE 'TO''DO|FIX''ME|XX''X' --include='*.py' --include='*.sh' --include='*.md' . --exclude-dir=.venv

format: $(INSTALLED)
	$(BIN)/ruff check --fix -q .
	$(BIN)/ruff format .
	$(BIN)/shfmt -i 4 -w runsdeploy/shell
	$(BIN)/shfmt -i 4 -ln bash -w $(BUILTIN)

# The tests that use third-party packages, with the oldest versions that pyproject.toml allows.
lowest:
	PYTHON=$(PYTHON) .ci/lowest

# What is published: both archives, built from a clean clone of HEAD, so that no file of the working tree slips in.
release: $(INSTALLED)
	.ci/release

# The man pages are in the repository, so that installing the wheel does not need the tools that make them.
man: $(INSTALLED)
	$(BIN)/python -m docs.manual

bench: $(INSTALLED)
	$(BIN)/python bench/deploy.py

packages:
	@sh .ci/packages

$(INSTALLED): pyproject.toml .ci/packages
	@sh .ci/packages
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
