# The README's commands. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.venv/user: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	@touch $@

.venv/dev: .venv/user
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

.PHONY: quickstart
quickstart: .venv/user ## install, train on planted faces (about ten minutes on two cores with bfloat16), write the report
	$(BIN)/patronus fit --config configs/quickstart.yaml
	$(BIN)/patronus explain runs/quickstart

.PHONY: test
test: .venv/dev ## every test but the slow ones
	$(BIN)/python -m pytest -m "not slow"

.PHONY: test-slow
test-slow: .venv/dev ## the slow tests
	$(BIN)/python -m pytest -m slow

.PHONY: lint
lint: .venv/dev ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if $(BIN)/python -c "import socket; socket.create_connection(('pypi.org', 443), 5)" 2>/dev/null; \
	then $(BIN)/pip-audit --local --skip-editable; else echo "pip-audit skipped: pypi.org cannot be reached"; fi

# Those of a trained model take the newest of runs/quickstart. BENCH=--quick tries every script in seconds.
BENCHMARKS := startup training forward sampling inversion data latent_quality planted_faces epoch_time growth explain
.PHONY: bench
bench: .venv/dev ## benchmarks: tables, and JSON in benchmarks/results
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py $(BENCH) || exit 1; done

.PHONY: data-cifar10
data-cifar10: ## download CIFAR-10 (170 MB) into data/cifar10
	mkdir -p data/cifar10
	curl --fail --location https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz | tar -xz -C data/cifar10

.PHONY: docker
docker: ## build the image; DEVICE=cuda for GPUs
	docker build --file docker/Dockerfile --build-arg DEVICE=$(or $(DEVICE),cpu) --tag patronus:$(or $(DEVICE),cpu) .
