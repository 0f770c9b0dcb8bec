# The two main commands are `make run` and `make test`. Everything is installed into .venv; later runs skip what is done.
PYTHON ?= python3
PORT ?= 8001
HTTP_PORT ?= 8002
VENV := .venv
BIN := $(VENV)/bin

# Test processes: one per core. Tests of a module stay together, because their fixtures export models.
TEST_WORKERS ?= logical

.PHONY: $(VENV)/.installed run test test-fast test-slow test-grpcio test-runtimes clients chaos soak lint proto settings metrics dashboard observe lock dist audit timm silent picture screenshots bench bench-peers clean

# The script decides what to install; it returns at once if nothing has changed.
$(VENV)/.installed:
	@PYTHON='$(PYTHON)' TORCH_INDEX_URL='$(TORCH_INDEX_URL)' deploy/install

run: $(VENV)/.installed
	@$(BIN)/python deploy/quickstart.py --port $(PORT) --http-port $(HTTP_PORT) $(if $(ONCE),--once)

# Tests start some hundred processes, each of which would compile its modules.
unexport PYTHONDONTWRITEBYTECODE

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# The developer's loop, within a minute: tests of server and client that start no process.
test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --hypothesis-profile quick \
	    -m "not slow and not process" $(PYTEST_ARGS) tests/server tests/client

# Tests that take longer, and most protocol tests on grpc.aio (`make test` runs some of them there, and all on the other
# front); run them when you change the code that they test.
test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# The protocol's tests, on both fronts, with the lowest grpcio that is allowed, the pinned one and the newest.
VERSIONS ?= $(shell sed -n 's/.*"grpcio>=\(.*\)".*/\1/p' server/setup.py) $(shell sed -n 's/^grpcio==//p' constraints.txt) newest
test-grpcio: $(VENV)/.installed
	PYTEST_ARGS="-n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)" tests/grpcio_versions $(VERSIONS)

# The tests that run models, with OpenVINO's older ONNX Runtime (the extra openvino). Needs network access.
test-runtimes: $(VENV)/.installed
	PYTEST_ARGS="-n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)" \
	    tests/runtime_versions $(shell grep '^onnxruntime-openvino==' constraints.txt)

# Other projects' clients, each in an environment of its own: what they are seen to use becomes docs/compatibility.md.
# Needs network access the first time, and Node.js and curl.
clients: $(VENV)/.installed
	RECORD_CLIENTS=1 $(BIN)/python -m pytest -m slow $(PYTEST_ARGS) tests/clients
	$(BIN)/python -m tests.clients.matrix > docs/compatibility.md

# The long forms of what happens when things break, an hour or so: state machines with 10,000 examples each of tensors
# and of captions, on each front 100,000 mutated messages and 10,000 calls of which half are cancelled, 50 stops and 20 kills
# under load, and what the machine may do to a server. One after the other, as they measure times and memory.
chaos: $(VENV)/.installed
	$(BIN)/python -m pytest --hypothesis-profile nightly -o timeout=0 $(PYTEST_ARGS) \
	    tests/server/tensors/test_promise.py tests/server/captioning/test_promise.py
	$(BIN)/python -m pytest -m slow -rP $(PYTEST_ARGS) tests/attacks tests/chaos tests/server/lifecycle/test_faults.py

# A server under 70 % of the load that it can bear, or RATE calls a second: memory, descriptors and threads stay.
MINUTES ?= 30
soak: $(VENV)/.installed
	SOAK_MINUTES=$(MINUTES) SOAK_RATE=$(or $(RATE),0) $(BIN)/python -m pytest -m slow -rP $(PYTEST_ARGS) tests/chaos/test_soak.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHON=$(abspath $(BIN)/python) proto/generate --check
	$(BIN)/python client/generate --check

proto: $(VENV)/.installed
	PYTHON=$(abspath $(BIN)/python) proto/generate

# docs/settings.md from the settings' model. A test checks that it is up to date.
settings: $(VENV)/.installed
	$(BIN)/python deploy/settings_reference.py > docs/settings.md

# docs/metrics.md from the registry of metrics. A test checks that it is up to date.
metrics: $(VENV)/.installed
	$(BIN)/python deploy/metrics_reference.py > docs/metrics.md

# Grafana's dashboard from deploy/observability/panels.py, and the Prometheus operator's rules from deploy/prometheus/rules.yml.
# A test checks that they are up to date.
dashboard: $(VENV)/.installed
	$(BIN)/python -m deploy.observability.dashboard > deploy/grafana/dashboards/resonnx.json
	$(BIN)/python -m deploy.observability.prometheus_rule > deploy/kubernetes/components/monitoring/rules.yaml

# A server under load and a Prometheus that scrapes it: the value of each panel of the dashboard. Needs prometheus on PATH.
observe: $(VENV)/.installed
	@$(BIN)/python -m deploy.observability.observe

# deploy/requirements/*.txt: the packages of the images, with hashes. A test checks that they fit the distributions.
lock: $(VENV)/.installed
	$(BIN)/python -m deploy.lock

# dist/: wheels and sdists of the four distributions, of the last commit; RELEASING.md says what comes before and after.
dist: .make/dist/bin/pyproject-build
	BUILD_PYTHON=$(abspath .make/dist/bin/python) deploy/dist

.make/dist/bin/pyproject-build: constraints.txt
	$(PYTHON) -m venv --clear .make/dist
	.make/dist/bin/pip install --quiet -c constraints.txt build 'setuptools>=77'

# Known vulnerabilities of the packages of the images, by PyPI's advisories; needs network access.
audit: .make/audit/bin/pip-audit
	$< --disable-pip --require-hashes $(foreach list,server client export cpu openvino gpu otel build,-r deploy/requirements/$(list).txt)

.make/audit/bin/pip-audit:
	$(PYTHON) -m venv .make/audit
	.make/audit/bin/pip install --quiet pip-audit

# docs/timm.md: what comes of timm's ResNets, from timm's code and from plain checkpoints. Half an hour.
timm: $(VENV)/.installed
	$(BIN)/python -m tests.export.layouts.timm_names > docs/timm.md

# docs/silent.md: what answers tell of networks that look like plain ResNets. Five minutes.
silent: $(VENV)/.installed
	$(BIN)/python -m tests.export.answers.silent_share > docs/silent.md

# docs/images/report.png, a screenshot of the demo model's report (`make run ONCE=1` exports it).
CHROMIUM ?= chromium
picture:
	$(CHROMIUM) --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1000,1330 \
	    --screenshot=docs/images/report.png file://$(CURDIR)/models/digits/1/report.html

# docs/images/page-*.webp, of the page of a server of the demo models (`make run ONCE=1` exports them). Needs Chromium.
screenshots: $(VENV)/.installed
	$(BIN)/python -m tests.server.http.page.screenshots

# Half an hour on a quiet machine. ROWS=small-unary,jpeg selects rows; perf_analyzer is used if it is on PATH.
bench: $(VENV)/.installed
	$(BIN)/python benchmarks/overhead.py $(if $(ROWS),--rows $(ROWS)) $(BENCH_ARGS)

# Against other servers, each from PyPI in .make/peers: WHAT=pictures (FastAPI, LitServe, BentoML, Ray Serve, Triton,
# MLServer), captions (the usual loop in PyTorch and ONNX Runtime), tensors (Triton, MLServer; perf_analyzer), clients or floor.
WHAT ?= pictures
bench-peers: $(VENV)/.installed
	PYTHONPATH=benchmarks $(BIN)/python -m peers.$(WHAT) $(BENCH_ARGS)

# Removes what make has created; your own models stay.
clean:
	rm -rf $(VENV) .make models/digits models/scenes models/gestures models/.samples models/.cache
