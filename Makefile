# Everything a fresh machine needs: python3 (3.11 or newer) and make.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo

.PHONY: demo test check slow gpu benchmarks docs clean

# Remade when pyproject.toml changes. pip gets torch and torchvision as one matching pair.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/installed
	rm -rf $(DEMO)
	$(BIN)/deepfake demo --output $(DEMO)

# By file, which share what they prepare; in the order of tests/conftest.py.
TWO = -n 2 --dist loadfile --no-loadscope-reorder

test: .venv/installed
	$(BIN)/python -m pytest $(TWO)

slow: .venv/installed
	$(BIN)/python -m pytest -m slow

# All that needs a GPU, in about ten minutes; writes gpu.json and gpu.md.
gpu: .venv/installed
	$(BIN)/python benchmarks/gpu.py

# The figures of docs/benchmarks.md, in half an hour; leave the machine alone meanwhile.
benchmarks: .venv/installed
	$(BIN)/python benchmarks/page.py

# The site, into site/; a broken link, anchor or name ends it.
docs: .venv/installed
	$(BIN)/python -m zensical build --strict --clean

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/coverage run -m pytest $(TWO)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

clean:
	rm -rf .venv $(DEMO) site .cache .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
