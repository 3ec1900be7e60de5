#!/bin/sh
# Builds and runs every test. cargo-nextest gives each test a process of its own and says at the
# end how many ran; without it `cargo test` runs the same tests. docker-compose.yml is checked
# beside them, unless arguments choose among the tests.
set -eu
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"

containers=""
containers_log=$target/compose-check.log
built=$target/compose-check.built
tests_log=$target/tests.log
end() {
    [ -n "$containers" ] || return 0
    kill -- "-$containers" 2>/dev/null || true
    wait "$containers" || true
}
trap end EXIT
trap 'exit 1' INT TERM
rm -f "$built" "$tests_log" "$tests_log.failed"
if [ $# = 0 ]; then
    # A process group of its own, to end as a whole; an hour, most of it for a build from scratch.
    setsid timeout --kill-after=60 3600 scripts/compose-check.sh "$target/debug/tiffin" "$built" >"$containers_log" 2>&1 &
    containers=$!
fi

cargo build --locked --all-targets
touch "$built"

failed=0
if cargo nextest --version >/dev/null 2>&1; then
    # Nextest does not run the examples of the documentation.
    cargo test --locked --doc --quiet || failed=1
    { cargo nextest run --locked --no-fail-fast "$@" 2>&1 || touch "$tests_log.failed"; } | tee "$tests_log"
    [ ! -e "$tests_log.failed" ] || failed=1
else
    echo "cargo-nextest is not installed: using cargo test" >&2
    cargo test --locked --no-fail-fast "$@" || failed=1
fi

if [ -n "$containers" ]; then
    status=0
    wait "$containers" || status=$?
    containers=""
    case $status in
    0)
        echo "docker-compose.yml, killed and cut off primaries:"
        grep -E '^ok: |acknowledged, |^books' "$containers_log" | sed 's/^/    /'
        ;;
    77) echo "NOT RUN: docker-compose.yml. $(tail -n 1 "$containers_log")" ;;
    *)
        cat "$containers_log"
        echo "FAILED: docker-compose.yml (scripts/compose-check.sh)"
        failed=1
        ;;
    esac
fi

if [ "$failed" = 1 ] && grep -q 'panicked at' "$tests_log" 2>/dev/null; then
    # Once more at the end: the logs of servers may stand between them and whoever reads.
    echo "What the tests that failed said first:"
    grep -A 3 'panicked at' "$tests_log" | cut -c 1-300 | head -n 100
fi
exit "$failed"
