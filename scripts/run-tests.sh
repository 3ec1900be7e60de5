#!/bin/sh
# Builds and runs every test. cargo-nextest gives each test a process of its own and says at the
# end how many ran; without it `cargo test` runs the same tests.
set -eu
cd "$(dirname "$0")/.."

cargo build --locked --all-targets
if cargo nextest --version >/dev/null 2>&1; then
    # Nextest does not run the examples of the documentation. Its own count comes last.
    cargo test --locked --doc --quiet
    cargo nextest run --locked --no-fail-fast "$@"
else
    echo "cargo-nextest is not installed: using cargo test" >&2
    cargo test --locked --no-fail-fast "$@"
fi
