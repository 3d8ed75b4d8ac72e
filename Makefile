# Two commands do all the set-up:
#   make demo    digits, plain and with each cyclical technique: a table and a picture
#   make test    lint, types and the fast tests
#   make tables  the paper's tables on digits, from nothing, in some minutes; the same again
#                gives the same files
# Another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
PEERS := $(VENV)/peers
LIBTPU := $(VENV)/libtpu

# Of pip's output: a word for each package, so that nobody waits before a silent terminal.
NAMES := /^Collecting/ { printf "%s ", $$2 } /^Installing/ { print "and installing" } { fflush() }
SHELL := bash
.SHELLFLAGS := -o pipefail -c

# A worker that crashes ends the tests: xdist would wait for ever for the files of a worker that it
# has replaced.
WORKERS := --numprocesses=auto --maxprocesses=4 --max-worker-restart=0

.PHONY: demo test lint fast-tests test-slow tables benchmarks package bare floor clean

demo: $(INSTALLED)
	$(RUN) -m experiments.demo --workdir=runs/demo

test: lint fast-tests

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

fast-tests: $(INSTALLED)
	$(RUN) -m pytest -m "not slow" $(WORKERS)

test-slow: $(INSTALLED) $(PEERS) $(LIBTPU)
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(RUN) -m pytest -m slow $(WORKERS)

TABLES := techniques weight_decay temperature clipping focal_loss combined factor

tables: $(INSTALLED)
	for table in $(TABLES); do \
	  $(RUN) -m experiments.table --table=$$table --datasets=digits --workdir=runs/tables || exit; \
	done

# What would be published, and that its description can be shown.
package:
	rm -rf dist
	test -e $(VENV)-package/bin/twine || $(PYTHON) -m venv $(VENV)-package
	$(VENV)-package/bin/pip install --quiet build twine
	$(VENV)-package/bin/python -m build --outdir dist > $(VENV)-package/build.log \
	  || { cat $(VENV)-package/build.log; exit 1; }
	$(VENV)-package/bin/twine check --strict dist/*

# jax, optax and the wheel alone, as in somebody else's project.
bare: package
	$(PYTHON) -m venv --clear $(VENV)-bare
	$(VENV)-bare/bin/pip install --quiet dist/*.whl
	cd $(VENV)-bare && bin/python -W error ../tests/bare_environment.py

# The core with the oldest jax and optax that it takes: pyproject.toml's, which a test compares.
FLOOR := jax==0.4.38 optax==0.2.5
CORE := $(foreach name,schedules transforms losses augment curriculum distillation \
  semisupervised finetuning averaging accumulation,$(wildcard tests/test_$(name)*.py))

floor: $(VENV)-floor/installed
	$(VENV)-floor/bin/python -m pytest $(WORKERS) $(CORE)

$(VENV)-floor/installed: Makefile pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)-floor
	$(VENV)-floor/bin/pip install --quiet $(FLOOR) pytest pytest-xdist scipy --editable .
	touch $@

benchmarks: $(INSTALLED) $(PEERS)
	$(RUN) -m benchmarks.losses
	$(RUN) -m benchmarks.optimizer
	$(RUN) -m benchmarks.import_time
	$(RUN) -m benchmarks.train_step
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

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) experiments/__init__.py
	$(PYTHON) -m venv $(VENV)
	@echo "Getting what is needed takes a minute or two:"
	@$(VENV)/bin/pip install --disable-pip-version-check --progress-bar=off \
	  -r requirements.txt --editable ".[test]" | awk '$(NAMES)'
	touch $@

# What we are compared with. Its torch need not have torchvision's compiled operations, so that it
# may be a CPU's; what timm needs of torchvision's dependencies is named.
$(PEERS): $(INSTALLED)
	$(VENV)/bin/pip install --quiet torch==2.13.0 safetensors pyyaml
	$(VENV)/bin/pip install --quiet equinox==0.13.8 dm-haiku==0.0.17 keras==3.15.1  # for examples/
	$(VENV)/bin/pip install --quiet --no-deps torchvision==0.28.0 timm==1.0.31
	touch $@

# The compiler for TPUs, as the installed JAX asks for it. It lies beside the other packages, not
# among them: JAX would look for a TPU at each start.
OF_JAX := from importlib.metadata import requires; \
  print(*(line.split(";")[0] for line in requires("jax") if line.startswith("libtpu")))

$(LIBTPU): $(INSTALLED)
	rm -rf $@
	$(VENV)/bin/pip install --quiet --no-deps --target $@ "$$($(RUN) -c '$(OF_JAX)')"
	touch $@

clean:
	rm -rf .venv .venv-* dist
