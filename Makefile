# Two commands on a new machine: `make verify` and `make test`. Needs GNU make and Python >= 3.11.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -qq

# The first Python that is new enough and can make virtual environments; override: make PYTHON=...
USABLE := -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p $(USABLE) && { command -v $$p; break; }; done)

ARGS ?=
# Half of the files in their order to each process, as the tests of a file share what they have compiled; who is done
# first takes from the other.
PYTEST_ARGS ?= -n 2 --dist worksteal
LOCK_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install verify test test-all test-gpu coverage lint format bench notebooks docs dist lock compat lowest clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

# Stamps are written last: an interrupted installation starts again from an empty environment.
LOCKED := $(VENV)/.locked
INSTALLED := $(VENV)/.installed

$(LOCKED): requirements/lock.txt
	@$(or $(PYTHON),false) $(USABLE) || { echo "make: no Python >= 3.11 with venv and ensurepip" \
		"(Debian: python3-venv). Name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -e $@ || { echo "Creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv --clear $(VENV); }
	@rm -f $@
	@echo "Installing requirements/lock.txt (about a minute, the first time)"
	@$(PIP) install --require-hashes --no-deps -r requirements/lock.txt
	@touch $@

$(INSTALLED): $(LOCKED) pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# What only one target needs: lint, docs, notebooks, coverage.
$(VENV)/.%-installed: requirements/%.txt $(INSTALLED)
	@echo "Installing $<"
	@$(PIP) install --require-hashes --no-deps -r $<
	@touch $@

install: $(INSTALLED) ## make .venv with everything locked and this package, editable

verify: $(INSTALLED) ## check every claim, and that planted errors are noticed; into results/verify (ARGS=...)
	@$(VENV)/bin/ngd-theory verify --plant all --out results/verify $(ARGS)

test: $(INSTALLED) ## run a case of every test but the slow ones, in two processes (PYTEST_ARGS=...)
	@$(PY) -m pytest $(PYTEST_ARGS)

# The last line: some tests of what users' programs compute, compiled as theirs are.
OPTIMISED := tests/sweeps/test_measure.py tests/theory/test_isotropy.py
test-all: $(INSTALLED) ## run all tests, and some with XLA's optimisations
	@$(PY) -m pytest $(PYTEST_ARGS) --whole
	@$(PY) -m pytest $(PYTEST_ARGS) --optimised $(OPTIMISED)

coverage: $(VENV)/.coverage-installed ## run the tests of `make test` and list the lines that none runs; fails under 95 % of lines
	@$(PY) -m pytest $(PYTEST_ARGS) --cov --cov-report=term-missing:skip-covered --cov-report=html:build/coverage

# JAX of the locked version with its GPU plugin; leave that environment with `rm -rf .venv`.
CUDA ?= cuda13
$(VENV)/.gpu-installed: $(INSTALLED)
	@echo "Installing JAX for $(CUDA)"
	@$(PIP) install "jax[$(CUDA)]==$$($(PY) -c 'import jax; print(jax.__version__)')"
	@touch $@

test-gpu: $(VENV)/.gpu-installed ## run the tests on a GPU (CUDA=cuda12 for older drivers)
	@$(PY) -c "import sys, jax; b = jax.default_backend(); b == 'gpu' or sys.exit(f'no GPU: JAX runs on {b}')"
	@XLA_PYTHON_CLIENT_PREALLOCATE=false $(PY) -m pytest $(PYTEST_ARGS) --whole

lint: $(VENV)/.lint-installed ## ruff check, ruff format --check, basedpyright
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/basedpyright

format: $(VENV)/.lint-installed ## format, and fix what ruff can fix
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

bench: $(INSTALLED) ## run the benchmarks (ARGS=...)
	@$(PY) -m benchmarks $(ARGS)

# PYTEST_ARGS="-n 2 --overwrite" writes their outputs, clean (notebooks/conftest.py).
notebooks: $(VENV)/.notebooks-installed ## run the notebooks, warnings as errors
	@$(PY) -m pytest --nbmake --nbmake-timeout=600 $(PYTEST_ARGS) notebooks

docs: $(VENV)/.docs-installed ## build the documentation into build/site, broken links as errors
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --site-dir build/site

# The wheel is built from the sdist, which shows that the sdist is whole. TAG=v0.2.0: the version must be that.
TAG ?=
dist: $(INSTALLED) ## build sdist and wheel into dist/, and verify with the wheel in an empty environment
	@rm -rf dist build/wheel && mkdir -p build/wheel
	@$(VENV)/bin/hatchling build -t sdist
	@test -z "$(TAG)" || test -e dist/ngd_theory-$(TAG:v%=%).tar.gz || { echo "make: the version in" \
		"ngd_theory/__init__.py is not that of the tag $(TAG)" >&2; exit 1; }
	@$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz
	@$(PY) -m venv build/wheel/env
	@build/wheel/env/bin/pip --disable-pip-version-check -q install dist/*.whl
	@cd build/wheel && env/bin/ngd-theory verify --plant all --out results

# One universal lock: each supported Python gets the newest versions it can run.
UV := $(VENV)/bin/uv
COMPILE := $(UV) --no-config --quiet pip compile --universal --python-version 3.11 \
	--fork-strategy requires-python --generate-hashes --custom-compile-command "make lock"

$(UV): $(INSTALLED)
	@$(PIP) install uv

lock: $(UV) ## bring requirements/ up to date with pyproject.toml (LOCK_ARGS=--upgrade)
	@$(COMPILE) $(LOCK_ARGS) pyproject.toml --extra test --extra infinite --extra cluster \
		--group build --override requirements/overrides.txt -o requirements/lock.txt
	@for group in lint docs notebooks coverage; do $(COMPILE) $(LOCK_ARGS) --group $$group \
		-c requirements/lock.txt -o requirements/$$group.txt || exit 1; done

# Every JAX that the neural-tangents bridge is said to serve, in environments of its own.
COMPAT := 3.11:0.5.3 3.11:0.6.2 3.11:0.7.2 3.11:0.10.2 3.12:0.11.2 3.12:0.12.0.1
COMPAT_TESTS := tests/kernels/test_neural_tangents_import.py tests/kernels/infinite/test_bridge.py

compat: $(UV) ## run the neural-tangents tests on every JAX supported
	@set -e; for pair in $(COMPAT); do jax=$${pair#*:}; env=build/compat/$$jax; \
		$(UV) --no-config python find -q --no-python-downloads $${pair%%:*} > /dev/null 2>&1 || { \
		echo "Python $${pair%%:*}, JAX $$jax: skipped, no such Python on PATH"; continue; }; \
		test -e $$env/.ready || { $(UV) --no-config -q venv --clear --python $${pair%%:*} $$env; \
		$(UV) --no-config -q pip install --python $$env "jax==$$jax" frozendict -e '.[test]'; \
		$(UV) --no-config -q pip install --python $$env --no-deps neural-tangents==0.6.5; \
		touch $$env/.ready; }; \
		echo "Python $${pair%%:*}, JAX $$jax"; \
		$$env/bin/python -m pytest -q -W default $(COMPAT_TESTS); done

# Old releases warn about newer ones of what they use in turn: here warnings are no errors.
lowest: $(UV) ## run the tests on the oldest dependencies allowed (Python 3.11)
	@$(UV) --no-config run --isolated --no-project --python 3.11 --resolution lowest-direct \
		--with-editable '.[test,cluster]' python -m pytest -W default $(PYTEST_ARGS) --whole

clean: ## remove .venv, caches and results
	rm -rf $(VENV) results build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
