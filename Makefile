# `make` lists what there is. Every target makes what it needs first; nothing has to be installed by hand before.

SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
unexport PYTHONDONTWRITEBYTECODE

PYTHON := .venv/bin/python
CLUSTER := $(PYTHON) -m shop_cluster
PYTEST := .venv/bin/pytest
CODE := $(wildcard conftest.py libs services tools tests bench deploy/load)
PACKAGES := $(wildcard libs/* services/* tools/cluster tools/k8s)
WORKERS ?= 2
OURS := shop-cluster shop-common shop-gateway shop-orders shop-users

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  \033[1m%-17s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nMODE=docker or MODE=local chooses where the servers come from; SHOP_PORT_GATEWAY=8080 and the like move ports.\n'

.PHONY: venv
venv:
	@tools/bootstrap.sh

##@ The cluster

.PHONY: up down nuke status logs urls seed trace dev doctor
up: venv ## start everything: servers, services, demo data
	@$(CLUSTER) up

down: venv ## stop everything; the data stays
	@$(CLUSTER) down

nuke: venv ## stop everything and throw its data away
	@$(CLUSTER) nuke

status: venv ## what runs, and whether it answers
	@$(CLUSTER) status

logs: venv ## follow the logs; one part's with s=users-worker
	@$(CLUSTER) logs $(s)

urls: venv ## where everything is, and who may log in
	@$(CLUSTER) urls

seed: venv ## make the demo data (up does it too)
	@$(CLUSTER) seed

trace: venv ## follow one order through every service; a deactivation with a=--deactivate
	@$(CLUSTER) trace $(a)

dev: venv ## start everything, and restart services as their source changes
	@$(CLUSTER) dev

doctor: venv ## what this machine has and lacks
	@$(CLUSTER) doctor

##@ Kubernetes

.PHONY: k8s-check k8s-check-server k8s-up k8s-policies
k8s-check: venv ## build every combination of deploy/k8s; schemas, policies, settings, kubeconform, kube-score
	@$(PYTHON) -m shop_k8s check

k8s-check-server: venv ## ask a real API server about every object (compiled the first time, minutes)
	@$(PYTHON) -m shop_k8s check-server

k8s-up: venv ## to the cluster of kubectl's context: images (REGISTRY=… unless kind or k3d), secrets, objects
	@$(PYTHON) -m shop_k8s up

k8s-policies: venv ## write docs/k8s-policies.md anew; after any change of a policy's sentence
	@$(PYTHON) -m shop_k8s policies

##@ The code

.PHONY: test test-unit test-integration test-e2e test-faults test-mutations check check-models monitoring-check docker-check bench format openapi configuration lock
test: venv ## all tests, with coverage; below 90 % fails
	@rm -f .coverage .coverage.*
	@$(PYTEST) --cov --cov-report= -n $(WORKERS) --dist loadscope --no-loadscope-reorder; tests=$$?; \
	  .venv/bin/coverage combine --quiet --append 2>/dev/null; \
	  .venv/bin/coverage report --fail-under=90 && exit $$tests

test-unit: venv ## tests without servers, in seconds
	@$(PYTEST) $(wildcard $(PACKAGES:=/tests/unit) tests/architecture)

test-integration: venv ## tests with real servers
	@$(PYTEST) -n $(WORKERS) --dist loadscope $(wildcard $(PACKAGES:=/tests/integration))

test-e2e: venv ## tests of the whole cluster, traces included
	@$(PYTEST) tests/e2e

test-faults: venv ## the whole fault matrix, three seeds; one scenario with s=kafka-kill, one seed with seed=7
	@echo 'Each scenario takes minutes. Tables and pictures: .cluster/faults/scenarios.md'
	@$(PYTEST) -v --faults all $(if $(seed),--fault-seed $(seed)) \
	  $(if $(s),'tests/faults/test_matrix.py::test_nothing_is_lost_or_doubled[$(s)]',tests/faults/test_matrix.py -n $(WORKERS))

test-mutations: venv ## break each mechanism on purpose and see which oracle notices; one with s=mark_before_ack
	@$(PYTEST) -v --faults mutations \
	  $(if $(s),'tests/faults/test_mutants.py::test_a_broken_mechanism_is_noticed[$(s)]',tests/faults/test_mutants.py -n $(WORKERS))

check: venv ## format, lint, types, imports, API style, configuration, workflows, known vulnerabilities: what CI runs
	.venv/bin/ruff format --check $(CODE)
	.venv/bin/ruff check $(CODE)
	.venv/bin/mypy $(CODE)
	.venv/bin/lint-imports
	tools/openapi/lint.sh
	$(PYTHON) tools/configuration/reference.py --check
	.venv/bin/zizmor --quiet --offline .github
	$(PYTHON) tools/audit/audit.py

check-models: venv ## prove the models in docs/models with spin, and see each fail without one of its rules
	@$(PYTHON) tools/models/check.py

monitoring-check: venv ## alerts and their tests with promtool, the collector's configuration with a collector
	@$(PYTHON) tools/monitoring/check.py

docker-check: venv ## the Compose files checked, the images built, the services run from them on servers of this machine
	@$(PYTHON) -m shop_cluster.containers.check

bench: venv ## measure the gateway beside its peers, in minutes; one part with s=live, fastest, cached, fresh or idle
	@PYTHONPATH=bench/src $(PYTHON) -m shop_bench $(s)

format: venv ## put the code into its format
	.venv/bin/ruff check --quiet --fix-only $(CODE)
	.venv/bin/ruff format $(CODE)

openapi: venv ## merge the services' documents into the gateway's; after any change of a public API
	$(PYTHON) tools/openapi/merge.py

configuration: venv ## write docs/configuration.md from the settings classes; after any change of one
	$(PYTHON) tools/configuration/reference.py

lock: venv ## compile requirements.lock anew from the pyproject files; newer versions with a=--upgrade
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --all-extras $(OURS:%=--no-emit-package %) --group dev pyproject.toml $(PACKAGES:=/pyproject.toml) -o requirements.lock $(a)
