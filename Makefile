# One command each to set up, demo, test, check and bench. Needs python3 (3.11 or newer) and make, nothing else:
# tools/setup_venv.py makes .venv from the hashed locks in requirements/.

PYTHON3 ?= python3
PYTHON := .venv/bin/python
UV := $(PYTHON) -m uv
# make test ARGS="tests/unit -k sink", make demo ARGS="--recipients 500", make lock ARGS=--upgrade
ARGS ?=

export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-postgres chaos fuzz check format docs bench lock clean cluster cluster-stop cluster-programs \
	image sbom manifests e2e

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: .setup-dev ## make .venv with everything the other targets use; .venv/bin/fullsend is the command
	@echo "ready: .venv/bin/fullsend"

demo: .setup-local ## send a campaign on this machine: embedded PostgreSQL, our own mail sink, no cluster
	.venv/bin/fullsend demo $(ARGS)

# Many tests wait for something most of the time. Each worker begins with a folder of its own: few need a control plane.
WORKERS := -q -n 3 --dist worksteal

# A whole run wants a control plane; a chosen few tests use one that is there already.
test: .setup-dev $(if $(ARGS),,.cluster-programs) ## run the tests (the first time: 7 minutes more, to build a control plane)
	$(PYTHON) -m pytest $(if $(ARGS),$(ARGS),$(WORKERS))

# The embedded PostgreSQL is the newest that is supported; this is for the oldest, such as a distribution's.
OLD_POSTGRES ?= $(firstword $(sort $(wildcard /usr/lib/postgresql/*/bin)))
test-postgres: .setup-dev ## the ledger's tests on another PostgreSQL (OLD_POSTGRES=<its bin folder>)
	FULLSEND_TEST_POSTGRES=$(OLD_POSTGRES) $(PYTHON) -m pytest tests/integration/ledger $(WORKERS)

# CI runs SIZE=3000; the long form is SIZE=1000000.
SEED ?= 1
SIZE ?= 20000
chaos: .setup-dev ## an account of faults: a campaign under everything that can go wrong (SEED=, SIZE=)
	$(PYTHON) tests/chaos/run.py --seed $(SEED) --size $(SIZE) $(ARGS)

INPUTS ?= 50000
fuzz: .setup-dev ## the fuzzers at length: INPUTS= to each, others each time (make test runs some thousands)
	FULLSEND_FUZZ_INPUTS=$(INPUTS) $(PYTHON) -m pytest tests/fuzz -q -n 2

# Processes, mounts and addresses of the node are in namespaces that end with the run. The network is a new one, so the
# images, whose packages come from somewhere, are made first.
E2E_IMAGES := $(CURDIR)/.fullsend/e2e-images
e2e: .setup-dev ## the image, the chart and campaigns on a real node; as root, with Debian's buildah, debootstrap, runc, ...
	$(PYTHON) tests/cluster/binaries.py --node --if-possible >/dev/null
	@set -e; why="$$($(PYTHON) tests/e2e/needs.py)"; \
	[ -n "$$why" ] || why="$$($(PYTHON) tests/e2e/images.py $(E2E_IMAGES))"; \
	if [ -n "$$why" ]; then echo "make e2e: SKIPPED, no real node here: $$why"; else \
	  folder="$$(mktemp -d /tmp/fullsend-e2e-XXXXXX)"; trap 'rm -rf "$$folder"' EXIT; trap 'exit 130' INT TERM; \
	  FULLSEND_E2E_IMAGES=$(E2E_IMAGES) TMPDIR="$$folder" unshare --net --mount --pid --fork --kill-child --mount-proc \
	    sh -c 'mount --make-rshared / && "$$@"; code=$$?; exit $$code' e2e $(PYTHON) -m pytest tests/e2e $(ARGS); fi

check: .setup-dev ## lint, format check, types, import contracts
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	$(PYTHON) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	$(PYTHON) tools/generate_docs.py --check
	$(PYTHON) tools/generate_crds.py --check

format: .setup-dev ## apply the formatter and the safe fixes
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

docs: .setup-dev ## write what comes from the code: pages of docs/, and crds/
	$(PYTHON) tools/generate_docs.py
	$(PYTHON) tools/generate_crds.py

manifests: .setup-dev ## write manifests/ from the chart, with the Helm that cluster-programs builds
	$(PYTHON) tools/generate_manifests.py $$($(PYTHON) tests/cluster/binaries.py | grep /helm-)/helm

cluster: .setup-dev ## leave a Kubernetes control plane running, with crds/ in it and pods as local processes
	$(PYTHON) tests/cluster/control_plane.py start

cluster-stop: .setup-dev ## end it
	$(PYTHON) tests/cluster/control_plane.py stop

cluster-programs: .setup-dev ## build etcd, the API server, Helm and the like from pinned Go modules, once for this machine
	$(PYTHON) tests/cluster/binaries.py

# docker, podman and buildah agree on these arguments. IMAGE_ARGS="--build-arg BASE=..." starts from another base.
BUILDER ?= $(firstword $(foreach name,docker podman buildah,$(if $(shell command -v $(name)),$(name))))
IMAGE ?= fullsend/fullsend:$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' operator/fullsend/__init__.py)
IMAGE_ARGS ?=
image: ## build the image with docker, podman or buildah, for this machine's platform (BUILDER=, IMAGE=, IMAGE_ARGS=)
	$(or $(BUILDER),$(error there is no docker, podman or buildah)) build --tag $(IMAGE) $(IMAGE_ARGS) .

sbom: .setup-dev ## write dist/fullsend.cdx.json: the Python packages of the image, with their hashes (CycloneDX)
	@mkdir -p dist
	$(UV) tool run --from cyclonedx-bom==7.5.0 cyclonedx-py requirements --pyproject pyproject.toml \
		--output-reproducible --sv 1.6 -o dist/fullsend.cdx.json requirements/local.txt

bench: .setup-dev ## run the benchmarks
	@set -e; for bench in bench/*.py; do echo "== $$bench"; $(PYTHON) $$bench $(ARGS); done

# Each lock is constrained by the smaller one, so that all of them agree.
COMPILE = $(UV) pip compile pyproject.toml --quiet --universal --generate-hashes --only-binary :all: \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(ARGS)
lock: .setup-dev ## refresh requirements/*.txt from pyproject.toml (ARGS=--upgrade for newer versions)
	$(COMPILE) -o requirements/base.txt
	$(COMPILE) --extra local -c requirements/base.txt -o requirements/local.txt
	$(COMPILE) --extra local --group dev -c requirements/local.txt -o requirements/dev.txt
	$(UV) pip compile --group build --quiet --universal --generate-hashes --only-binary :all: --no-annotate \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(ARGS) -o requirements/build.txt

clean: ## remove what the other targets left in this clone (the package cache stays)
	if [ -f .fullsend/cluster.pid ]; then $(PYTHON) tests/cluster/control_plane.py stop; fi
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .fullsend demo-out build dist
	find operator tests tools bench -name __pycache__ -type d -prune -exec rm -rf {} +
	if [ -f .venv/fullsend-setup ]; then rm -rf .venv; fi

.PHONY: .setup-local .setup-dev .cluster-programs
.cluster-programs: .setup-dev
	@$(PYTHON) tests/cluster/binaries.py --if-possible >/dev/null

.setup-local .setup-dev: .setup-%:
	@$(PYTHON3) tools/setup_venv.py $* >/dev/null
