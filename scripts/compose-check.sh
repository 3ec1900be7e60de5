#!/bin/sh
# Starts docker-compose.yml, shows a write on the primary and reads on both replicas through the
# proxy, and takes everything down again. It needs a Docker daemon and `docker compose` (or
# `docker-compose`); not part of the tests.
#
#   scripts/compose-check.sh                  builds the proxy in its image, as users do
#   scripts/compose-check.sh target/x/tiffin  puts this program into the image instead
#
# The images stand on debian:bookworm-slim. Without a registry:
#   debootstrap --variant=minbase bookworm root && tar -C root -c . | docker import - debian:bookworm-slim
set -eu
cd "$(dirname "$0")/.."
program=${1:-}

if docker compose version >/dev/null 2>&1; then
    compose="docker compose"
elif command -v docker-compose >/dev/null 2>&1; then
    compose="docker-compose"
else
    echo "compose-check needs docker compose or docker-compose" >&2
    exit 1
fi

# Apart from what somebody has running, on ports of its own.
export COMPOSE_PROJECT_NAME=tiffin-check
export TIFFIN_PORT="${TIFFIN_PORT:-16432}" TIFFIN_HTTP_PORT="${TIFFIN_HTTP_PORT:-19632}"
work=$(mktemp -d)
files="-f docker-compose.yml"
in_compose() {
    # shellcheck disable=SC2086 # lists of words
    $compose $files "$@"
}
end() {
    status=$?
    [ "$status" = 0 ] || in_compose logs --tail=30 || true
    in_compose down --volumes --rmi local >/dev/null 2>&1 || true
    rm -rf "$work"
    exit "$status"
}
trap end EXIT
trap 'exit 1' INT TERM

if [ -n "$program" ]; then
    cp "$program" "$work/tiffin"
    cat >"$work/Dockerfile" <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN useradd --system --no-create-home tiffin
COPY tiffin /usr/local/bin/tiffin
USER tiffin
ENTRYPOINT ["tiffin"]
CMD ["run", "--config", "/etc/tiffin.yaml"]
DOCKERFILE
    cat >"$work/override.yml" <<YAML
services:
  tiffin:
    build: { context: "$work", dockerfile: Dockerfile }
YAML
    files="$files -f $work/override.yml"
fi

in_compose up --detach --build

# Asks through the proxy, from one of the servers' containers: they have psql.
ask() {
    in_compose exec -T -e PGPASSWORD=app db1 \
        psql "host=tiffin port=6432 user=app dbname=app" -qAt -v ON_ERROR_STOP=1 -c "$1"
}
address() { in_compose exec -T "$1" hostname -i | tr -d ' \r\n'; }
until_says() { # until_says WHAT SQL EXPECTED
    round=0
    while [ "$(ask "$2" 2>"$work/said")" != "$3" ]; do
        round=$((round + 1))
        [ "$round" -lt 240 ] || { echo "FAILED: $1: $(cat "$work/said")" >&2; exit 1; }
        sleep 0.5
    done
    echo "ok: $1"
}

until_says "the proxy answers" "SELECT 1" 1
ask "CREATE TABLE IF NOT EXISTS lunch (dish text)"
db1=$(address db1)
for _ in 1 2 3; do
    at=$(ask "INSERT INTO lunch VALUES ('dal') RETURNING host(inet_server_addr())")
    [ "$at" = "$db1" ] || { echo "FAILED: a write ran on $at, the primary is $db1" >&2; exit 1; }
done
echo "ok: three writes on the primary, db1"
for replica in db2 db3; do
    until_says "$replica serves a read and has the rows" \
        "/* tiffin: node=$replica */ SELECT host(inet_server_addr()), count(*) FROM lunch" \
        "$(address "$replica")|3"
done
# A busy machine's replicas may be late for a moment: then it is asked again.
reads() {
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        ask "SELECT host(inet_server_addr()) FROM lunch LIMIT 1"
    done | sort | uniq -c
}
round=0
while
    seen=$(reads)
    case $seen in
    *"$db1"*) true ;;
    *) [ "$(echo "$seen" | wc -l)" != 2 ] ;;
    esac
do
    round=$((round + 1))
    [ "$round" -lt 10 ] || { echo "FAILED: not shared by the replicas alone: $seen" >&2; exit 1; }
done
echo "$seen"
echo "ok: 20 sessions read on both replicas, and nowhere else"
