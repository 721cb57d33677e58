PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test redis java lint proto proto-check wheelhouse wheelhouse-check clean

help:
	@echo "make demo   the whole path on the sample domain: train, export, serve, ask"
	@echo "make test   every test"
	@echo "make lint   ruff and mypy        make proto   stubs from proto/"
	@echo "make wheelhouse   an archive for installing without a network"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/work_orders/demo.py

test: $(STAMP) redis java
	$(BIN)/python -m pytest

redis:  # the tests start one of their own
	@command -v redis-server >/dev/null || { apt-get update -qq && apt-get install -y -qq redis-server; } >/dev/null

JAVA := default-jdk-headless libgoogle-gson-java libgrpc-java libjsr305-java libnetty-java libperfmark-java \
	libprotobuf-java protobuf-compiler protobuf-compiler-grpc-java-plugin

java:  # the tests compile and run examples/java
	@command -v javac >/dev/null && command -v grpc_java_plugin >/dev/null && test -e /usr/share/java/perfmark-api.jar || \
		{ apt-get update -qq && apt-get install -y -qq $(JAVA); } >/dev/null

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

proto: $(STAMP)
	$(BIN)/python proto/generate.py

proto-check: $(STAMP)
	$(BIN)/python proto/generate.py --check
	$(BIN)/python proto/check.py

wheelhouse: $(STAMP)  # everything for a server without a network, as one archive in dist/
	$(BIN)/python deploy/wheelhouse.py

wheelhouse-check: wheelhouse
	$(BIN)/python deploy/check_wheelhouse.py dist/smallm-*.tar.gz

clean:
	rm -rf demo work .pytest_cache .mypy_cache .ruff_cache .hypothesis
