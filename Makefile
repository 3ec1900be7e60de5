# make test   installs what is missing, then formatting, lints, unit and integration tests
# make demo   installs what is missing, builds, and shows the proxy on real servers (ENGINE=mysql)
# make release  builds target/trained/tiffin, the program for production (20 minutes on two cores)
# make bench  builds it and compares with a direct connection, a relay, HAProxy and PgBouncer (60 minutes)
# make regress  runs PostgreSQL's own regression suite, directly and through the proxy
# make soak   random sessions, direct and proxied, for SOAK_SECONDS from seed SOAK_SEED on
# make chaos  kills, freezes, cuts off and hands over primaries under load and checks the books (ENGINE=mysql FAULT=kill)
# make compose-check  the image as users build it in docker-compose.yml, primaries killed and cut off
# make fuzz   fuzzes the decoders and the classifier (needs cargo-fuzz and a nightly toolchain)

CARGO ?= cargo
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600
SOAK_SEED ?= 1
CHAOS_ROUNDS ?= 100
CHAOS_SEED ?= 1

.PHONY: test lint deps test-deps demo release bench bench-deps regress soak chaos compose-check fuzz help

help:
	@sed -n 's/^# //p' Makefile

test: test-deps lint
	scripts/run-tests.sh

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

deps:
	scripts/install-deps.sh test

test-deps:
	scripts/install-deps.sh test failover containers drivers
	scripts/install-drivers.sh

demo: deps
	$(CARGO) build --locked --bin tiffin
	target/debug/tiffin sandbox $(if $(ENGINE),--engine $(ENGINE)) $(ARGS)

release:
	scripts/install-deps.sh release
	scripts/build-release.sh

bench-deps:
	scripts/install-deps.sh test bench

bench: bench-deps release
	$(CARGO) build --locked --release --example relay
	python3 bench/bench.py --tiffin target/trained/tiffin \
		--relay target/release/examples/relay $(ARGS)
	BENCH_ENGINE=mariadb python3 bench/mysql.py --tiffin target/trained/tiffin
	BENCH_ENGINE=mysql python3 bench/mysql.py --tiffin target/trained/tiffin

regress:
	scripts/install-deps.sh test regress
	$(CARGO) test --locked --test regress -- $(ARGS)

soak: deps
	SOAK_SECONDS=$(SOAK_SECONDS) SOAK_SEED=$(SOAK_SEED) SOAK_SCRIPT=$(SOAK_SCRIPT) \
		$(CARGO) test --locked --test integration \
		soak::$(if $(filter mysql mariadb,$(ENGINE)),$(ENGINE)::)random -- --nocapture

chaos: deps
	CHAOS_ROUNDS=$(CHAOS_ROUNDS) CHAOS_SEED=$(CHAOS_SEED) CHAOS_FAULT=$(FAULT) \
		$(CARGO) test --locked --test integration chaos::$(if $(ENGINE),$(ENGINE)::) \
		-- --nocapture --test-threads 1 \
		| grep -E '^measured:|^test |contradiction|panicked'

compose-check:
	scripts/install-deps.sh test containers
	$(CARGO) build --locked --release --bin tiffin
	scripts/compose-check.sh target/release/tiffin

fuzz:
	scripts/fuzz.sh $(FUZZ_SECONDS)
