# make demo    set up, then the main job on a cohort of its own        make demo ARGS=--fast
# make test    set up, then every check and every test
# make lint    the checks alone                    make docs     write the generated parts of docs/ again
# make bench   tables of measurements              make bench WHAT=learning
# make lock    resolve requirements.lock again     make clean    remove .venv and caches, never a workspace

SHELL := /bin/sh
BIN := .venv/bin
export PYTHON
unexport PYTHONPATH PYTHONHOME

.PHONY: demo test lint docs bench lock clean setup
.DEFAULT_GOAL := setup

setup: .venv/.installed

# A clone that was moved, or whose Python is gone, is set up again.
ifneq ($(realpath .),$(shell test -x $(BIN)/python && cat .venv/.installed 2>/dev/null))
.PHONY: .venv/.installed
endif

.venv/.installed: requirements.lock requirements-bootstrap.txt pyproject.toml deploy/setup.sh
	@sh deploy/setup.sh

demo: setup
	@$(BIN)/noduleflow $(if $(WORKSPACE),--workspace $(WORKSPACE)) demo $(ARGS)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup
	$(BIN)/python docs/generate.py

# Peers that only measurements need.
.venv/.bench-installed: requirements-bench.txt .venv/.installed
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-bench.txt
	@touch $@

bench: setup .venv/.bench-installed
	@set -e; for what in $(or $(WHAT),$(patsubst tests/benchmarks/bench_%.py,%,$(wildcard tests/benchmarks/bench_*.py))); do \
		if [ ! -f tests/benchmarks/bench_$$what.py ]; then \
			echo "no benchmark $$what; there are: $(patsubst tests/benchmarks/bench_%.py,%,$(wildcard tests/benchmarks/bench_*.py))" >&2; exit 2; \
		fi; \
		$(BIN)/python tests/benchmarks/bench_$$what.py $(ARGS); \
	done

UV_COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

lock: setup
	$(UV_COMPILE) --upgrade pyproject.toml --extra test --extra fetch --extra openvino --extra onnx --extra postgres -o requirements.lock
	echo uv | $(UV_COMPILE) --upgrade --no-annotate - -o requirements-bootstrap.txt
	echo itk | $(UV_COMPILE) --upgrade --no-annotate -c requirements.lock - -o requirements-bench.txt

clean:
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache bench
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
