# `make run` and `make test` work on a fresh machine: each creates the environment it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test test-all test-slurm test-gpu check bench-all clean

run: $(VENV)/.run
	$(BIN)/bench run har-table1

# One thread a process: two processes of two threads each on two cores wait for each other most of the time.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow or not slow" --timeout 3600

# A real Slurm of two nodes on this host; needs root, and Debian's packages, which `tests/slurm/cluster.sh install` gets.
test-slurm: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow --timeout 1800 tests/slurm

# What a GPU alone can show; without one every test is skipped, with its reason.
test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -m gpu -rs --timeout 1200

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-all: $(VENV)/.dev
	for name in soft_nms losses step scoring startup job_overhead clgn har_forward multiscale cat pod claims resampling ssd attention image_cache; do $(BIN)/python benchmarks/$$name.py || exit 1; done

$(VENV)/.run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,tools]'
	touch $@

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
