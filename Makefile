# `make` alone lists the targets: the lines here that have a "##". Each target first installs what it
# needs in .venv. Another Python: make test PYTHON=python3.12 (it gets an environment of its own).

PYTHON ?= python3
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
PEERS := $(VENV)/peers
LIBTPU := $(VENV)/libtpu
DOCS := .venv-docs/installed

# Turns pip's output into one word for each package, so that the terminal shows life. It is bash's
# own loop, since an awk may wait for a whole block of lines.
NAMES := while read -r word name rest; do case $$word in \
  Collecting) printf '%s ' "$$name";; \
  Installing) printf '\nInstalling them takes as long again.\n';; esac; done
SHELL := bash
.SHELLFLAGS := -o pipefail -c

# A worker that crashes ends the tests. With a new worker in its place, xdist would wait for ever.
WORKERS := --numprocesses=auto --maxprocesses=4 --max-worker-restart=0

.PHONY: help demo test lint fast-tests test-slow tables package bare bare-oldest bare-newest floor \
  benchmarks docs clean
.DEFAULT_GOAL := help

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## train on digits, plain and with each cyclical technique: a table and a picture
	$(RUN) -m experiments.demo --workdir=runs/demo

test: lint fast-tests ## check style and types, and run the fast tests

lint: $(INSTALLED) ## check style (ruff) and types (mypy)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

fast-tests: $(INSTALLED) ## run the fast tests
	$(RUN) -m pytest -m "not slow" $(WORKERS)

test-slow: $(INSTALLED) $(PEERS) $(LIBTPU) $(DOCS) ## run the slow tests
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(RUN) -m pytest -m slow $(WORKERS)

TABLES := techniques weight_decay temperature clipping focal_loss combined factor

tables: $(INSTALLED) ## make seven tables of the papers' questions on digits, in runs/tables
	for table in $(TABLES); do \
	  $(RUN) -m experiments.table --table=$$table --datasets=digits --workdir=runs/tables || exit; \
	done

# Twine checks a description in Markdown only where its renderer is installed.
package: ## build the wheel and the sdist in dist/, and check their description
	rm -rf dist
	test -e $(VENV)-package/bin/twine || $(PYTHON) -m venv $(VENV)-package
	$(VENV)-package/bin/pip install --quiet build twine 'readme_renderer[md]'
	$(VENV)-package/bin/python -m build --outdir dist > $(VENV)-package/build.log 2>&1 \
	  || { cat $(VENV)-package/build.log; exit 1; }
	$(VENV)-package/bin/twine check --strict dist/*

# The oldest supported versions and the newest. A test compares them with pyproject.toml.
OLDEST ?= python3.11
NEWEST ?= python3.13
FLOOR := jax==0.4.38 optax==0.2.5

bare: bare-oldest bare-newest ## run README's first example with jax, optax and the package alone

bare-oldest: package ## the same with the oldest supported Python, jax and optax only
	$(call run_bare,$(OLDEST),$(VENV)-bare-oldest,$(FLOOR))

bare-newest: package ## the same with the newest supported Python, jax and optax only
	$(call run_bare,$(NEWEST),$(VENV)-bare-newest)

# Makes an environment as in somebody else's project. Arguments: Python, folder, versions to install.
define run_bare
$(1) -m venv --clear $(2)
$(2)/bin/pip install --quiet dist/*.whl $(3)
$(2)/bin/python -W error tests/bare_environment.py
$(2)/bin/pip install --quiet --force-reinstall --no-deps dist/*.tar.gz
$(2)/bin/python -W error tests/bare_environment.py
endef

# The tests of what needs jax and optax alone.
CORE := $(foreach name,schedules transforms losses augment curriculum distillation \
  semisupervised finetuning averaging accumulation precision,$(wildcard tests/test_$(name)*.py))

floor: $(VENV)-floor/installed ## run the core's tests with the oldest supported jax and optax
	$(VENV)-floor/bin/python -m pytest $(WORKERS) $(CORE)

$(VENV)-floor/installed: Makefile pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)-floor
	$(VENV)-floor/bin/pip install --quiet $(FLOOR) pytest pytest-xdist scipy --editable .
	touch $@

benchmarks: $(INSTALLED) $(PEERS) ## measure the ratios that docs/speed.md quotes
	$(RUN) -m benchmarks.losses
	$(RUN) -m benchmarks.optimizer
	$(RUN) -m benchmarks.import_time
	$(RUN) -m benchmarks.train_step
	$(RUN) -m benchmarks.precision
	$(RUN) -m benchmarks.loop
	$(RUN) -m benchmarks.convolutions
	$(RUN) -m benchmarks.compilation
	$(RUN) -m benchmarks.population
	$(RUN) -m benchmarks.table_memory
	$(RUN) -m benchmarks.checkpoints
	$(RUN) -m benchmarks.image_feed
	$(RUN) -m benchmarks.device_feed
	$(RUN) -m benchmarks.augment
	$(RUN) -m benchmarks.techniques
	$(RUN) -m benchmarks.accuracy

docs: $(DOCS) ## build the documentation site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "open site/index.html"

# The tools of the site alone: they read the package, and do not import it.
DOCS_EXTRA := import tomllib; \
  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")

$(DOCS): pyproject.toml
	$(PYTHON) -m venv .venv-docs
	$(PYTHON) -c '$(DOCS_EXTRA)' > .venv-docs/requirements.txt
	.venv-docs/bin/pip install --quiet -r .venv-docs/requirements.txt
	touch $@

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) experiments/__init__.py
	$(PYTHON) -m venv $(VENV)
	@echo "Getting what is needed takes about two minutes, most of it downloads:"
	@$(VENV)/bin/pip install --disable-pip-version-check --progress-bar=off \
	  -r requirements.txt --editable ".[test]" | { $(NAMES); }
	touch $@

# The libraries that tests and benchmarks compare ours with. Torch may be a CPU's: torchvision and timm
# are installed without their dependencies, and what timm needs of them is named here.
$(PEERS): $(INSTALLED)
	$(VENV)/bin/pip install --quiet torch==2.13.0 safetensors pyyaml
	$(VENV)/bin/pip install --quiet equinox==0.13.8 dm-haiku==0.0.17 keras==3.15.1  # for examples/
	$(VENV)/bin/pip install --quiet qwix==0.1.8  # for cyclical_jax/interop/
	$(VENV)/bin/pip install --quiet --no-deps torchvision==0.28.0 timm==1.0.31
	touch $@

# The compiler for TPUs, in the version that the installed JAX asks for. It lies beside the other
# packages, not among them, since JAX would then look for a TPU at each start.
OF_JAX := from importlib.metadata import requires; \
  print(*(line.split(";")[0] for line in requires("jax") if line.startswith("libtpu")))

$(LIBTPU): $(INSTALLED)
	rm -rf $@
	$(VENV)/bin/pip install --quiet --no-deps --target $@ "$$($(RUN) -c '$(OF_JAX)')"
	touch $@

clean: ## delete the environments (.venv*), dist/ and site/, and nothing else
	rm -rf .venv .venv-* dist site
