#!/bin/sh
# Fuzzes each target for so many seconds. The tests run the same targets briefly without
# cargo-fuzz; this is for longer runs.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}

if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "make fuzz needs: cargo install cargo-fuzz" >&2
    exit 1
fi
# The sanitizers are options of the nightly toolchain; the stable one knows them if it is told to.
if [ -z "${RUSTUP_TOOLCHAIN:-}" ] && cargo +nightly --version >/dev/null 2>&1; then
    export RUSTUP_TOOLCHAIN=nightly
else
    export RUSTC_BOOTSTRAP=1
fi
for target in $(cargo fuzz list); do
    echo "== $target for $seconds seconds"
    cargo fuzz run "$target" -- -max_total_time="$seconds" -rss_limit_mb=2048
done
