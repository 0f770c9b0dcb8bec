# The two commands: `make run` and `make test`. Everything goes into .venv; re-runs skip what is done.
PYTHON ?= python3
PORT ?= 8001
HTTP_PORT ?= 8002
VENV := .venv
BIN := $(VENV)/bin

# Test processes: one a core. Modules stay together, as their fixtures export models.
TEST_WORKERS ?= logical

.PHONY: $(VENV)/.installed run test test-fast test-slow lint proto settings metrics bench bench-peers clean

# What is installed, and when it must be anew, the script knows; it takes no time where nothing is to be done. On linux
# x86-64 with the OpenVINO provider; elsewhere the extra is empty.
$(VENV)/.installed:
	@PYTHON='$(PYTHON)' TORCH_INDEX_URL='$(TORCH_INDEX_URL)' deploy/install

run: $(VENV)/.installed
	@$(BIN)/python deploy/quickstart.py --port $(PORT) --http-port $(HTTP_PORT) $(if $(ONCE),--once)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# For the loop of a developer, within a minute: the server's and the client's tests that start no process.
test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --hypothesis-profile quick \
	    -m "not slow and not process" $(PYTEST_ARGS) tests/server tests/client

# What takes longer; run it when you touch what it tests.
test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHON=$(abspath $(BIN)/python) proto/generate --check

proto: $(VENV)/.installed
	PYTHON=$(abspath $(BIN)/python) proto/generate

# The reference of all settings, which a test holds to the model that validates them.
settings: $(VENV)/.installed
	$(BIN)/python -m resonnx_server.settings_reference > docs/settings.md

# The reference of all metrics, which a test holds to what /metrics is made of.
metrics: $(VENV)/.installed
	$(BIN)/python -m resonnx_server.metrics_reference > docs/metrics.md

# On a quiet machine: half an hour. ROWS=small-unary,jpeg for some rows; perf_analyzer is used where it is on PATH.
bench: $(VENV)/.installed
	$(BIN)/python benchmarks/overhead.py $(if $(ROWS),--rows $(ROWS)) $(BENCH_ARGS)

bench-peers: $(VENV)/.installed
	$(BIN)/python benchmarks/peers.py $(BENCH_ARGS)

# What `make` made; models of your own stay.
clean:
	rm -rf $(VENV) .make models/digits models/scenes models/.samples models/.cache
