# `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PYTEST := -m pytest -n 2
LOCK := .venv-lock/bin/uv pip compile --quiet --upgrade --python-version 3.10 --no-python-downloads pyproject.toml
# The newest torch brings several GB of CUDA packages: where there is no GPU, `make test-latest` keeps the locked one.
TORCH ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo torch || grep '^torch==' constraints.txt)
export HF_HUB_DISABLE_TELEMETRY = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# An environment: $(call environment,folder,what to install,pip's other arguments). Nothing else is fetched to build it.
define environment
	$(1)/bin/python -m pip install -qq $(3) pip setuptools
	$(1)/bin/python -m pip install -qq $(3) --no-build-isolation $(2)
endef

.DEFAULT_GOAL := help
.PHONY: help install lock demo test test-slow test-latest test-lowest test-transformers lint format bench cards wheels bench-gpu clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Build .venv with all that the demo and the tests need, in the locked versions

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(call environment,$(VENV),--editable ".[dev]",--constraint constraints.txt)
	touch $@

lock: ## Lock the newest versions in constraints.txt, the oldest in tests/lowest.txt
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv
	$(LOCK) --universal --extra dev --output-file constraints.txt
	$(LOCK) --resolution lowest-direct --extra test --output-file tests/lowest.txt

demo: install ## Train Bit XOR on a real language model and on a random one, compare, reload
	HF_HUB_OFFLINE=1 $(RUN) examples/demo.py

test: install ## Run the tests, offline
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(RUN) $(PYTEST)

test-slow: install ## Run the long tests too (minutes)
	HF_HUB_OFFLINE=1 $(RUN) -m pytest -m ""

test-latest: ## Run the tests with the newest versions of today, in .venv-latest
	$(PYTHON) -m venv --clear .venv-latest
	$(call environment,.venv-latest,"$(TORCH)" --editable ".[test]",--upgrade)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv-latest/bin/python $(PYTEST)

test-lowest: ## Run the tests with the oldest supported versions, in .venv-lowest
	$(PYTHON) -m venv --clear .venv-lowest
	$(call environment,.venv-lowest,--editable ".[test]",--constraint tests/lowest.txt)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv-lowest/bin/python $(PYTEST)

# They come only with the source distribution, and need one more package.
test-transformers: install ## Run transformers' own tests of every model on ours: make test-transformers RUN=python
	version=$$($(RUN) -c "from importlib.metadata import version; print(version('transformers'))") && \
	folder=build/transformers-$$version && \
	if [ ! -d $$folder ]; then \
		$(RUN) -m pip install --quiet --upgrade --target build/parameterized parameterized && \
		$(RUN) -m pip download --quiet --no-build-isolation --no-deps --no-binary transformers --dest build \
			transformers==$$version && \
		tar -xzf $$folder.tar.gz -C build transformers-$$version/tests; fi && \
	PYTHONPATH=build/parameterized TRANSFORMERS_TESTS=$$folder HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 \
		$(RUN) $(PYTEST) -o addopts= -W default -W ignore::pytest.PytestUnknownMarkWarning tests/models/test_transformers_common.py

lint: install ## Check style and formatting
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: install ## Mend style and formatting
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: install ## Measure step, load and cached-epoch times, delta size, streams, bytes between processes
	HF_HUB_OFFLINE=1 $(RUN) benchmarks/curves.py
	HF_HUB_OFFLINE=1 $(RUN) benchmarks/delta.py
	HF_HUB_OFFLINE=1 $(RUN) benchmarks/cached_features.py
	HF_HUB_OFFLINE=1 $(RUN) benchmarks/streaming.py
	HF_HUB_OFFLINE=1 $(RUN) benchmarks/communication.py

cards: install ## Train the deltas of model_cards/ again: make cards MNIST=folder SCOP=folder
	$(RUN) model_cards/train.py $(if $(MNIST),--mnist $(MNIST)) $(if $(SCOP),--scop $(SCOP))

wheels: ## Fetch into build/wheels/ what a bare GPU machine lacks: make wheels WITH="pandas pyarrow"
	$(PYTHON) benchmarks/wheels.py build/wheels $(WITH)

# Without .venv, the Python that has torch; what it lacks comes from build/wheels/, where there is some.
bench-gpu: ## Check and measure everything on one GPU, without a network, in 8 minutes at most
	if [ -d build/wheels ]; then \
		$(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target build/site build/wheels/*.whl; fi
	PYTHONPATH=build/site:. $(if $(wildcard $(VENV)),$(RUN),$(PYTHON)) benchmarks/gpu.py --output_dir outputs/gpu $(ARGS)

clean: ## Remove what was built (not outputs/)
	rm -rf $(VENV) .venv-latest .venv-lowest .venv-lock .pytest_cache .ruff_cache build *.egg-info
