# Regent needs Rust, a C compiler and make; scripts/install brings the rest.
#
# Variables, given as `make demo KEEP=1 DCS=etcd`:
#   KEEP=1        demo: leave the federation running at the end
#   DCS=etcd      demo: on real etcd instead of the embedded SQLite store (DCS=sqlite)
#   REPEAT=20     fence-report: repetitions of each fault
#   HEALTHY=1800  fence-report: seconds under strain that must demote nobody, a quarter each strain
#   SEEDS=1000    simulate: how many seeds; SEED=n: this one only; EXPLAIN=1: tell what happened
#                 MINIMISE=1: with as few of its faults as still break it
#   ARGS='...'    demo, bench: more arguments for regentctl; test: for the test runner, e.g. a filter
#   CARGO=...     the cargo to use
#   REGENT_TOOLS  where scripts/install puts etcd, and regentctl looks for it (default .tools)
#   REGENT_ETCD   an etcd to use instead

CARGO ?= cargo
KEEP ?=
DCS ?=
ARGS ?=
REPEAT ?= 20
HEALTHY ?= 1800
SEEDS ?= 1000
SEED ?=
EXPLAIN ?=
MINIMISE ?=
export REGENT_TOOLS ?= $(CURDIR)/.tools

# Clusters of the tests live in memory where there is room: dozens of initdb, copies and rewinds sync every
# file, and no test pulls the plug. TMPDIR, where it is set, decides.
memory := /dev/shm
room := $(shell [ -w $(memory) ] && df --output=avail -k $(memory) | awk 'NR == 2 && $$1 > 8000000')
test fence-report fence-mutants: export TMPDIR ?= $(if $(room),$(memory),/tmp)

target := $(or $(CARGO_TARGET_DIR),target)
regentctl := $(target)/debug/regentctl
keep := $(if $(filter-out 0 no false,$(KEEP)),--keep)
seeds := $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --counters)
seeds += $(if $(filter-out 0 no false,$(EXPLAIN)),--explain)
seeds += $(if $(filter-out 0 no false,$(MINIMISE)),--minimise)
dcs := $(if $(DCS),--dcs $(DCS))

.DEFAULT_GOAL := help
.PHONY: help demo test bench fence-report fence-mutants fence-vm models simulate simulate-mutants gates fix clean need-rust
# One recipe at a time even under -j: they share the target directory and the machine's clock.
.NOTPARALLEL:

help: ## list the targets
	@echo 'usage: make TARGET [VARIABLE=value]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@sed -n 's/^#   /  /p' $(firstword $(MAKEFILE_LIST))

demo: need-rust ## two data sites and a witness on this machine, switched over under load (KEEP=1, DCS=etcd)
	@scripts/install $(if $(filter etcd,$(DCS)),--etcd)
	$(CARGO) build --locked --workspace --bins
	@$(regentctl) demo $(keep) $(dcs) $(ARGS)

test: need-rust ## install what the tests need, then every gate and every test
	@scripts/install --etcd --fence --haproxy --patroni
	@$(MAKE) --no-print-directory gates
	@# Programs alone have fewer features of some crates than beside their tests, and would be built twice.
	$(CARGO) build --locked --workspace --all-targets
	$(CARGO) test --locked --workspace --doc
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		set -x; $(CARGO) nextest run --locked --workspace $(ARGS); \
	else \
		echo 'test: cargo-nextest is not installed: using cargo test, which has no time limits'; \
		set -x; $(CARGO) test --locked --workspace --no-fail-fast --all-targets $(ARGS) -- --test-threads=1; \
	fi

bench: need-rust ## write outage of a switchover against the bare hand-over of the same two servers
	@scripts/install
	$(CARGO) build --locked --workspace --bins
	@$(regentctl) bench switchover $(ARGS)

fence-report: need-rust ## every fault of the fence 20 times, and 30 minutes that must demote nobody (REPEAT=, HEALTHY=)
	@scripts/install --etcd --fence
	$(CARGO) build --locked --workspace --bins
	REGENT_REPEAT=$(REPEAT) REGENT_HEALTHY=$(HEALTHY) \
		$(CARGO) test --locked --workspace --test fence -- --nocapture $(ARGS)

fence-mutants: need-rust ## break one condition of the fence at a time: the faults that must catch it do (ARGS=NAME)
	@scripts/install --etcd --fence
	$(CARGO) build --locked -p regent-tests --bin fence-mutants
	CARGO=$(CARGO) REGENT_MUTANT=$(ARGS) $(target)/debug/fence-mutants

fence-vm: need-rust ## a virtual machine with softdog or i6300esb is reset when its guardian pings no more
	@scripts/install
	@scripts/install-vm
	$(CARGO) build --locked --workspace --bins
	@$(target)/debug/fence-vm

models: need-rust ## search every model of the protocol to the end, and each of its mutants
	$(CARGO) build --locked -p regent-models --bin models
	@$(target)/debug/models $(ARGS)

simulate: need-rust ## whole sites in virtual time under faults (SEEDS=, or SEED=n EXPLAIN=1 MINIMISE=1)
	$(CARGO) build --locked -p regent-simulator
	@$(target)/debug/simulate $(seeds) $(ARGS)

simulate-mutants: need-rust ## after how many seeds the simulator notices each deliberate fault (SEEDS=)
	$(CARGO) build --locked -p regent-simulator
	@$(target)/debug/simulate --mutants --seeds $(SEEDS) $(ARGS)

gates: need-rust ## format, lints, docs, dependency rules; changes nothing
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		set -x; $(CARGO) deny --locked --offline check bans licenses sources; \
	else \
		echo 'gates: skipped: cargo-deny is not installed, so bans, licences and sources are not checked'; \
	fi

fix: need-rust ## format the code and apply the lints' own suggestions
	$(CARGO) clippy --locked --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

clean: ## remove everything built, the reports, and the tools of this clone
	rm -rf '$(target)' .tools

need-rust:
	@command -v $(CARGO) >/dev/null || { \
		echo "make: $(CARGO) was not found: install Rust 1.89 or newer and put cargo on PATH, or set CARGO" >&2; exit 1; }
	@command -v $${CC:-cc} >/dev/null || { \
		echo "make: no C compiler ($${CC:-cc}) was found: install one (Debian: gcc libc6-dev; Fedora, Arch: gcc)" >&2; exit 1; }
