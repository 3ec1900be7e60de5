#!/bin/sh
# Fuzzes each target for so many seconds. The tests run the same targets briefly without
# cargo-fuzz; this is for longer runs.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}

if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "make fuzz needs: rustup toolchain install nightly && cargo install cargo-fuzz" >&2
    exit 1
fi
for target in $(cargo +nightly fuzz list); do
    echo "== $target for $seconds seconds"
    cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -rss_limit_mb=2048
done
