# `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Without a GPU, this version of torch comes without CUDA packages.
TORCH := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo torch || echo torch==2.13.0)
export HF_HUB_DISABLE_TELEMETRY = 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-lowest lint format bench cards clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Build .venv with all that the demo and the tests need

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

demo: install ## Train Bit XOR on a real language model and on a random one, compare, reload
	HF_HUB_OFFLINE=1 $(RUN) examples/demo.py

test: install ## Run the tests, offline
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2

test-slow: install ## Run the long tests too (minutes)
	HF_HUB_OFFLINE=1 $(RUN) -m pytest -m ""

test-lowest: ## Run the tests with the oldest supported versions, in .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -r tests/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]" -c tests/lowest.txt
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2

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

.PHONY: wheels bench-gpu
wheels: ## Fetch into build/wheels/ what a bare GPU machine lacks: make wheels WITH="pandas pyarrow"
	$(PYTHON) benchmarks/wheels.py build/wheels $(WITH)

# Without .venv, the Python that has torch; what it lacks comes from build/wheels/, where there is some.
bench-gpu: ## Check and measure everything on one GPU, without a network, in 8 minutes at most
	if [ -d build/wheels ]; then \
		$(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target build/site build/wheels/*.whl; fi
	PYTHONPATH=build/site:. $(if $(wildcard $(VENV)),$(RUN),$(PYTHON)) benchmarks/gpu.py --output_dir outputs/gpu $(ARGS)

clean: ## Remove what was built (not outputs/)
	rm -rf $(VENV) .venv-lowest .pytest_cache .ruff_cache build *.egg-info
