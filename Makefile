PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two processes of one thread each: two threads each would stand in each other's way on two cores.
# Neighbours stay together, since they share what is slow to make.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
SIDE_BY_SIDE := $(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal

# What Python compiled is kept, whatever the shell says: else each run of pytest rewrites the asserts of all tests anew.
export PYTHONDONTWRITEBYTECODE =

# The oldest MLflow that pyproject.toml admits, over all else that is installed.
OLDEST := $(VENV)/oldest
OLDEST_MLFLOW := $(shell sed -n 's/^ *"mlflow>=\([0-9.]*\).*/\1/p' pyproject.toml)

SECONDS ?= 600
SEED ?= 0
OUTPUT ?=

.PHONY: demo test test-oldest test-slow test-ray test-projects test-postgres test-browser soak soak-short fuzz lint types bench clean

demo: $(VENV)/.installed ## install, then the whole chain on the embedded digits, then the comparison
	$(BIN)/rewindctl demo

test: $(VENV)/.dev ## the tests a newcomer runs
	$(SIDE_BY_SIDE) -m "not slow"

test-oldest: $(OLDEST)/.installed ## the registry over the oldest MLflow that pyproject.toml admits
	$(OLDEST)/bin/python -c "import mlflow; assert f'{mlflow.__version__}.'.startswith('$(OLDEST_MLFLOW).'), mlflow"
	$(ONE_THREAD) $(OLDEST)/bin/python -m pytest -n 2 --dist worksteal -m "not slow" tests/registry

test-slow: $(VENV)/.dev ## real servers, killed processes, mlflow run; three at once, since they wait for others
	$(SIDE_BY_SIDE) -n 3 -m "slow and not browser and not postgres and not ray" --ignore tests/test_environments.py

test-ray: $(VENV)/.dev ## a Ray cluster of two nodes: killed workers, killed nodes
	$(BIN)/python -m pytest -m ray tests/engines tests/conformance

test-projects: $(VENV)/.dev ## mlflow run in environments that uv and virtualenv make: 6 GB and minutes each
	$(BIN)/python -m pytest -m slow tests/test_environments.py

test-postgres: $(VENV)/.dev ## a server and direct runs over PostgreSQL, which is started for it
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
		{ echo "PostgreSQL is needed: apt-get install postgresql" >&2; exit 1; }
	$(SIDE_BY_SIDE) -m postgres tests/registry

test-browser: $(VENV)/.dev ## the MLflow UI in a real browser
	@{ command -v chromium && command -v chromedriver; } >/dev/null || \
		{ echo "chromium and chromedriver are needed: apt-get install chromium chromium-driver" >&2; exit 1; }
	$(BIN)/python -m pytest -m browser tests/browser

fuzz: $(VENV)/.dev ## every reader of files of others, coverage-guided; SECONDS for all of them together, SEED
	PYTHONPATH=tests $(BIN)/python -m fuzz.section $(SECONDS) $(SEED)

soak: $(VENV)/.dev ## 200 kills, disk faults, many processes, fuzzed readers in under 20 minutes; figures into docs/reliability.md
	PYTHONPATH=tests $(BIN)/python -m soak --seconds 1000 --seed $(SEED) --page

soak-short: $(VENV)/.dev ## two minutes of it
	PYTHONPATH=tests $(BIN)/python -m soak --seconds 90 --seed $(SEED)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

bench: $(VENV)/.installed ## speed, bytes, tracking, a large registry in under 10 minutes; OUTPUT=benchmarks/results keeps JSON
	PYTHON="$(abspath $(BIN))/python" OUTPUT="$(OUTPUT)" bash benchmarks/cpu.sh

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: $(VENV)/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

$(OLDEST)/.installed: $(VENV)/.dev pyproject.toml
	$(BIN)/python -m venv --clear $(OLDEST)
	$(BIN)/python -c "import site; print(f'import site; site.addsitedir({site.getsitepackages()[0]!r})')" \
		>$$(echo $(OLDEST)/lib/python3.*/site-packages)/newest.pth
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check mlflow==$(OLDEST_MLFLOW)
	touch $@

clean:
	rm -rf $(VENV) demo
