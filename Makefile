# "make" lists the targets. Only Go and make are needed for build, test and demo; the other tools are built from source,
# at the versions that internal/tools pins.

# One set of flags for every build: each other one fills the build cache once more. Only -race needs its own.
export CGO_ENABLED := 0
export GOFLAGS := -trimpath -buildvcs=false

buf  := go tool -modfile=internal/tools/buf/go.mod buf
lint := go tool -modfile=internal/tools/lint/go.mod golangci-lint
# The tests that start whole clusters measure time: they run by themselves, but for those that mostly wait.
e2e  := -parallel 5 ./internal/clustertest/...
rest  = $$(go list ./... | grep -v /internal/clustertest)
# An ordinary user who owns nothing.
nobody := 65534

.DEFAULT_GOAL := help
.NOTPARALLEL:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: ## build bin/muster, with the tiny binary in it
	go build -ldflags '-s -w' -o agent/supervisor/embedded/supervisor ./cmd/muster-supervisor
	go build -ldflags '-s -w' -tags supervisor_embedded -o bin/muster ./cmd/muster

.PHONY: demo
demo: build ## show a cluster, a failing probe and a dying node on this machine
	sh deploy/examples/demo.sh

.PHONY: test
test: build ## run the tests, those with real clusters at the end; no root and no network needed
	go test $(rest)
	MUSTER_BIN=$(CURDIR)/bin/muster go test -timeout 15m $(e2e)

.PHONY: test-user
test-user: build ## as root: run the tests with real clusters once more as an ordinary user
	internal/tools/as-user.sh $(nobody) $(CURDIR)/bin/muster

.PHONY: test-race
test-race: ## run the short tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race -short $(rest)

.PHONY: model
model: ## explore the fence's model: 300,000 seeded histories
	MUSTER_MODEL_HISTORIES=$${MUSTER_MODEL_HISTORIES:-300000} go test -timeout 1h ./internal/fence/...

.PHONY: soak
soak: build ## run everything long, 20 rounds of every failure among it
	MUSTER_ROUNDS=20 MUSTER_BIN=$(CURDIR)/bin/muster go test -count=1 -v -timeout 3h $(e2e)
	MUSTER_ROUNDS=20 go test -count=1 -v -run NoOrphan ./agent/container/process
	$(MAKE) model MUSTER_MODEL_HISTORIES=3000000
	$(MAKE) oracle MUSTER_ORACLE_PODS=100000 MUSTER_ORACLE_SEED=0
	$(MAKE) fuzz MUSTER_FUZZ=10m

.PHONY: crosscheck
crosscheck: ## compare control groups with those of containerd/cgroups
	cd agent/cgroup/crosscheck && go vet ./... && go test -count=1 ./...

.PHONY: oracle
oracle: ## hold defaults and validation of generated pods against Kubernetes itself
	cd internal/oracle && go vet ./... && go test -count=1 -v -rapid.checks=$${MUSTER_ORACLE_PODS:-3000} -rapid.seed=$${MUSTER_ORACLE_SEED:-1} ./...

.PHONY: mutants
mutants: ## seed faults into the probe rules' code: fail when a test does not notice one
	MUSTER_MUTANTS=1 go test -count=1 -v -timeout 20m ./internal/mutants

.PHONY: fuzz
fuzz: ## hold the two ways of an HTTP attempt together, against a server that is hostile: 30 seconds, or MUSTER_FUZZ
	go test -run '^$$' -fuzz FuzzBothWays -fuzztime $${MUSTER_FUZZ:-30s} ./agent/probe

.PHONY: bench
bench: ## run the benchmarks
	go test -run '^$$' -bench . $(rest)

.PHONY: bench-peers
bench-peers: build ## measure muster's prober beside the kubelet's own and blackbox_exporter, 20 minutes (PEERS=--quick: 3), into docs/performance.md
	cd loadtest/peers/kubelet && go vet ./... && go test ./... && go build -o $(CURDIR)/bin/kubelet-prober .
	go build -o bin/bench-peers ./loadtest/peers
	bin/bench-peers --write docs/performance.md $(PEERS)

.PHONY: cover
cover: ## write cover.out and show how much each package's tests cover
	go test -short -coverprofile cover.out $(rest)
	go tool cover -func cover.out | tail -n 1

.PHONY: lint
lint: ## check style and the borders of imports
	$(lint) run

.PHONY: fmt
fmt: ## format the code
	$(lint) fmt

.PHONY: gen
gen: ## generate gen/ from proto/
	$(buf) generate --template proto/buf.gen.yaml

.PHONY: gen-check
gen-check: ## fail when gen/ is not what proto/ makes
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && $(buf) generate --template proto/buf.gen.yaml -o "$$dir" && \
		diff -r "$$dir/gen" gen || { echo 'gen/ is stale: run "make gen"' >&2; exit 1; }

.PHONY: proto-check
proto-check: ## lint proto/, and fail when it breaks clients of the API in proto/muster.binpb
	$(buf) lint
	$(buf) breaking --against proto/muster.binpb

.PHONY: proto-image
proto-image: ## take proto/ as it is as the API that must not be broken
	$(buf) build --exclude-source-info -o proto/muster.binpb

.PHONY: fresh
fresh: ## run demo and test in fresh clones with empty caches, as root and as an ordinary user
	internal/tools/fresh.sh

.PHONY: tools-ci
tools-ci: ## install what CI needs beside Go and make, with apt-get
	internal/tools/install.sh

.PHONY: ci
ci: ## what has to pass: test, lint, cross-check, oracle, seeded faults, fuzzing, generated code, API, race detector, model, and an ordinary user's run
	internal/tools/ci.sh test lint crosscheck oracle mutants fuzz gen-check proto-check test-race model test-user
