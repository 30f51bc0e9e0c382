# The two commands to know: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin
.PHONY: install demo test slow bench lint clean

install: $(BIN)/.installed

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/saefeat demo

test: install
	$(BIN)/saefeat model fetch smollm2-135m-instruct
	$(BIN)/python -m pytest -m "not slow" --durations=8

slow: install
	$(BIN)/saefeat model fetch smollm2-135m-instruct
	$(BIN)/python -m pytest -m slow --durations=8

bench: install
	for script in $(filter-out tests/benchmarks/common.py,$(wildcard tests/benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist
