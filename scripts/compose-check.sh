#!/bin/sh
# Runs docker-compose.yml for real: kills the primary's container, brings it back, cuts the next
# primary's network, and has the load's books checked. Everything is taken down again.
#
#   scripts/compose-check.sh                  builds the proxy in its image, as users do
#   scripts/compose-check.sh target/x/tiffin  puts this program into the image instead
#   scripts/compose-check.sh target/x/tiffin FILE  once FILE is there; makes the other images first
#
# `make test` runs it beside the build and the other tests, with their program. It needs a Docker
# daemon; as root it starts one of its own, with containers and images that are gone afterwards.
# Without a registry it makes debian:bookworm-slim with debootstrap. Takes three to six minutes.
# Exit status 77: this machine has no daemon and may not start one, as the last line says.
set -eu
cd "$(dirname "$0")/.."
program=${1:-}
ready=${2:-}

not_here() {
    echo "compose-check cannot run here: $*" >&2
    exit 77
}
if docker compose version >/dev/null 2>&1; then
    compose="docker compose"
elif command -v docker-compose >/dev/null 2>&1; then
    compose="docker-compose"
else
    not_here "no docker compose and no docker-compose (apt-get install docker.io docker-compose)"
fi

# Apart from what somebody has running, another run of this too; 0 is any free port.
export COMPOSE_PROJECT_NAME="tiffin-check-$$"
export TIFFIN_PORT=0 TIFFIN_HTTP_PORT=0 TIFFIN_MYSQL_PORT=0
network=${COMPOSE_PROJECT_NAME}_default
work=$(mktemp -d)
files="-f docker-compose.yml"
daemon="" had_bridge=""
in_compose() {
    # shellcheck disable=SC2086 # lists of words
    $compose $files "$@"
}
end() {
    status=$?
    trap '' INT TERM
    [ "$status" = 0 ] || [ "$status" = 77 ] || in_compose logs --tail=40 || true
    [ "$status" = 77 ] || in_compose down --volumes --rmi local >/dev/null 2>&1 || true
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
        [ -n "$had_bridge" ] || ip link delete docker0 2>/dev/null || true
    fi
    rm -rf "$work"
    exit "$status"
}
trap end EXIT
trap 'exit 1' INT TERM

if ! docker info >/dev/null 2>&1; then
    PATH=$PATH:/usr/sbin
    [ "$(id -u)" = 0 ] || not_here "no Docker daemon answers, and only root may start one"
    command -v dockerd >/dev/null 2>&1 || not_here "no Docker daemon answers, and dockerd is not installed"
    export DOCKER_HOST="unix://$work/docker.sock"
    had_bridge=$(ip -br link show docker0 2>/dev/null || true)
    dockerd --host "$DOCKER_HOST" --data-root "$work/docker" --exec-root "$work/exec" \
        --pidfile "$work/dockerd.pid" >"$work/dockerd.log" 2>&1 &
    daemon=$!
    round=0
    until docker info >/dev/null 2>&1; do
        round=$((round + 1))
        if [ "$round" -ge 120 ] || ! kill -0 "$daemon" 2>/dev/null; then
            tail -n 5 "$work/dockerd.log" >&2
            not_here "dockerd does not start"
        fi
        sleep 0.5
    done
fi
if ! docker image inspect debian:bookworm-slim >/dev/null 2>&1 &&
    ! docker pull --quiet debian:bookworm-slim >/dev/null 2>&1; then
    [ "$(id -u)" = 0 ] || not_here "no registry answers, and only root can run debootstrap"
    echo "no registry: making debian:bookworm-slim with debootstrap"
    debootstrap --variant=minbase bookworm "$work/root" >"$work/debootstrap.log"
    # As the registry's image has it: the other tests need the disk as well.
    echo force-unsafe-io >"$work/root/etc/dpkg/dpkg.cfg.d/docker-apt-speedup"
    tar -C "$work/root" -c . | docker import - debian:bookworm-slim >/dev/null
fi

if [ -n "$ready" ]; then
    in_compose build db1 maria1 etcd load
    round=0
    until [ -e "$ready" ]; do
        round=$((round + 1))
        [ "$round" -lt 3600 ] || { echo "$program is not built within an hour" >&2; exit 1; }
        sleep 1
    done
fi
if [ -n "$program" ]; then
    strip -o "$work/tiffin" "$program"
    cat >"$work/Dockerfile" <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN useradd --system --no-create-home tiffin
COPY tiffin /usr/local/bin/tiffin
USER tiffin
ENTRYPOINT ["tiffin"]
CMD ["run", "--config", "/etc/tiffin.yaml"]
DOCKERFILE
    mkdir "$work/image"
    mv "$work/tiffin" "$work/Dockerfile" "$work/image"
    cat >"$work/override.yml" <<YAML
services:
  tiffin1: &tiffin
    build: { context: "$work/image", dockerfile: Dockerfile }
  tiffin2: *tiffin
YAML
    files="$files -f $work/override.yml"
fi

in_compose up --detach --build

fail() { echo "FAILED: $*" >&2; exit 1; }
container() { in_compose ps -q "$1"; }
# What the load has had acknowledged: PostgreSQL, then MariaDB.
acknowledged() {
    in_compose logs --no-color load 2>/dev/null |
        sed -n 's/.*acknowledged: postgres \([0-9]*\), mariadb \([0-9]*\).*/\1 \2/p' | tail -n 1
}
# goes_on WHAT: both have a hundred more.
goes_on() {
    # shellcheck disable=SC2046 # two numbers
    set -- "$1" $(acknowledged)
    postgres=${2:-0} mariadb=${3:-0} round=0
    while :; do
        # shellcheck disable=SC2046
        set -- "$1" $(acknowledged)
        [ "${2:-0}" -lt $((postgres + 100)) ] || [ "${3:-0}" -lt $((mariadb + 100)) ] || break
        round=$((round + 1))
        [ "$round" -lt 300 ] || fail "$1: the load does not go on"
        sleep 1
    done
    echo "ok: $1 ($2 and $3 writes acknowledged)"
}
status() { in_compose exec -T "$1" tiffin status --config /etc/tiffin.yaml 2>/dev/null || true; }
# The node that a proxy takes for the primary of PostgreSQL's cluster.
primary() { status "$1" | awk '$1 ~ /^db[123]$/ && $3 == "primary" { print $1 }'; }
# becomes WHAT COMMAND...: waits until the command succeeds.
becomes() {
    what=$1 round=0
    shift
    until "$@"; do
        round=$((round + 1))
        [ "$round" -lt 300 ] || fail "$what: $(status tiffin1)"
        sleep 1
    done
    echo "ok: $what"
}
is_another() {
    for proxy in tiffin1 tiffin2; do
        now=$(primary "$proxy")
        [ -n "$now" ] && [ "$now" != "$1" ] || return 1
    done
}
is_replica() { status tiffin1 | awk -v node="$1" '$1 == node && $3 == "replica" { found = 1 } END { exit !found }'; }

goes_on "clients write and read through both proxies"
becomes "db2 is a replica" is_replica db2
becomes "db3 is a replica" is_replica db3
first=$(primary tiffin1)
docker kill "$(container "$first")" >/dev/null
becomes "$first was killed, and both proxies have another primary" is_another "$first"
goes_on "the load goes on"
docker start "$(container "$first")" >/dev/null
becomes "$first is back as a replica" is_replica "$first"

second=$(primary tiffin1)
cut=$(container "$second")
docker network disconnect "$network" "$cut"
becomes "$second was cut off, and both proxies have another primary" is_another "$second"
goes_on "the load goes on"
docker network connect --alias "$second" "$network" "$cut"
goes_on "$second is back on the network, and the load goes on"
docker restart "$cut" >/dev/null
becomes "$second is a replica" is_replica "$second"

for proxy in tiffin1 tiffin2; do
    echo "what $proxy says of it:"
    status "$proxy"
done
load=$(container load)
in_compose stop load
docker logs --tail 4 "$load"
[ "$(docker inspect --format '{{.State.ExitCode}}' "$load")" = 0 ] || fail "the books do not balance"
