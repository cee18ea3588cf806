PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-ray test-browser soak soak-short lint types bench clean

SECONDS ?= 900
SEED ?=

demo: $(VENV)/.installed ## install, then the whole chain on the embedded digits, then the comparison
	$(BIN)/rewindctl demo

test: $(VENV)/.dev ## the tests a newcomer runs
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.dev ## real servers, killed processes, mlflow run
	$(BIN)/python -m pytest -m "slow and not browser" --ignore tests/engines/test_ray.py

test-ray: $(VENV)/.dev ## a Ray cluster of two nodes: killed workers, killed nodes
	$(BIN)/python -m pytest -m slow tests/engines/test_ray.py

test-browser: $(VENV)/.dev ## the MLflow UI in a real browser
	@{ command -v chromium && command -v chromedriver; } >/dev/null || \
		{ echo "chromium and chromedriver are needed: apt-get install chromium chromium-driver" >&2; exit 1; }
	$(BIN)/python -m pytest -m browser

soak: $(VENV)/.dev ## 200 kills and disk faults in under 20 minutes; figures into docs/reliability.md
	PYTHONPATH=tests $(BIN)/python -m soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) --page

soak-short: $(VENV)/.dev ## two minutes of it
	PYTHONPATH=tests $(BIN)/python -m soak --seconds 90 $(if $(SEED),--seed $(SEED))

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/throughput.py --model resnet8 --dataset digits --iterations 100

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: $(VENV)/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo
