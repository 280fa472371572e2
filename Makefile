# Gantry's commands. `make` alone lists them.
SHELL := /bin/sh
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
MUSL := x86_64-unknown-linux-musl
GANTRY := $(TARGET)/release/gantry
RUNTIME := $(TARGET)/$(MUSL)/runtime/gantry-runtime
PREFIX ?= /usr/local
DESTDIR ?=

.PHONY: help setup setup-test setup-bench setup-vm build demo up down test check vm-test power-cut bench security fuzz install

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## install what the node and the demo need (Debian packages by name)
	@scripts/setup.sh demo
setup-test:
	@scripts/setup.sh demo test
setup-bench:
	@scripts/setup.sh demo bench
setup-vm:
	@scripts/setup.sh demo vm

build: ## build both binaries, optimised
	$(CARGO) build -p gantry-runtime --profile runtime --target $(MUSL)
	$(CARGO) build -p gantry --release

demo: setup build ## walk one pod from kubectl apply to its end, and leave nothing behind
	@scripts/demo.sh $(GANTRY) $(RUNTIME)

up: setup build ## start a node that stays (make down stops it)
	@scripts/node.sh up $(GANTRY) $(RUNTIME)

down: ## stop the node of `make up`, and everything on it
	@scripts/node.sh down $(GANTRY) $(RUNTIME)

# The tests drive the development build of `gantry`: an optimised one would take longer to build than all tests to run.
test: setup-test ## run all tests
	$(CARGO) build -p gantry-runtime --profile runtime --target $(MUSL)
	$(CARGO) build -p gantry
	@scripts/fuzz.sh 10
	@scripts/test.sh --workspace

check: ## format, lints, the house rules and the tests that need no root: about a minute
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test -q -p gantry-tests --test tidy

vm-test: setup-vm ## run the runtime's tests in a virtual machine with pure cgroup v2
	$(CARGO) run -q -p gantry-tests --bin vm-test

power-cut: setup-test ## cut the power of recorded disks at hundreds of points of pulls and removals: some minutes
	GANTRY_POWER_CUTS=200 $(CARGO) test -q -p gantry-images --test power -- --nocapture

bench: setup-bench build ## measure against the peers, interleaved, and print the table
	$(CARGO) build -p gantry-runtime --profile runtime --target $(MUSL) --examples
	$(CARGO) build -p gantry-images --release --example bench-images
	$(CARGO) run -q --release -p gantry-tests --bin bench

SHARE := $(DESTDIR)$(PREFIX)/share
security: setup-bench build ## try attacks that have worked on OCI runtimes, on ours, runc and crun; print the table
	$(CARGO) run -q -p gantry-tests --bin security

fuzz: setup-test ## fuzz the parsers of the runtime and of images, half an hour
	@scripts/fuzz.sh 225

install: build ## install both binaries, man pages and completions below PREFIX (/usr/local)
	install -D -m 0755 $(GANTRY) $(DESTDIR)$(PREFIX)/bin/gantry
	install -D -m 0755 $(RUNTIME) $(DESTDIR)$(PREFIX)/bin/gantry-runtime
	$(RUNTIME) man $(SHARE)/man/man8
	install -d $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	$(RUNTIME) completion bash > $(SHARE)/bash-completion/completions/gantry-runtime
	$(RUNTIME) completion zsh > $(SHARE)/zsh/site-functions/_gantry-runtime
	$(RUNTIME) completion fish > $(SHARE)/fish/vendor_completions.d/gantry-runtime.fish
