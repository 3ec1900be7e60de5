#!/bin/sh
# start.sh HOST PEER...: makes the data directory where there is none, then becomes the server.
# Where a peer is the primary this becomes its replica; otherwise a new one begins if FIRST is set.
# One that was the primary and finds another one in its place is made anew as its replica: the
# container can be killed and started again. Passwords come from the environment.
set -eu
data=/data/main
self=$1
shift

primary() { # the peer that is one now
    for peer in "$@"; do
        is=$(PGPASSWORD=$REPLICATION_PASSWORD psql -qAt -c "SELECT NOT pg_is_in_recovery()" \
            "host=$peer user=replicator dbname=postgres connect_timeout=2" 2>/dev/null) || is=
        [ "$is" != t ] || { echo "$peer"; return; }
    done
}

first() {
    initdb --username=postgres --auth-local=trust --auth-host=scram-sha-256 \
        --encoding=UTF8 --locale=C --pgdata="$data"
    cat >>"$data/postgresql.conf" <<CONF
listen_addresses = '*'
wal_level = replica
max_wal_senders = 10
max_replication_slots = 10
wal_keep_size = '256MB'
hot_standby = on
hot_standby_feedback = on
CONF
    cat >>"$data/pg_hba.conf" <<CONF
host all all all scram-sha-256
host replication replicator all scram-sha-256
CONF
    # Not on the network before it is complete.
    pg_ctl --pgdata="$data" --wait --options="-c listen_addresses=" start
    psql --username=postgres --dbname=postgres -v ON_ERROR_STOP=1 \
        -v app="$APP_PASSWORD" -v tiffin="$TIFFIN_PASSWORD" \
        -v failover="$FAILOVER_PASSWORD" -v replication="$REPLICATION_PASSWORD" <<'SQL'
CREATE ROLE app LOGIN PASSWORD :'app';
CREATE ROLE tiffin LOGIN PASSWORD :'tiffin' IN ROLE pg_monitor;
CREATE ROLE replicator LOGIN REPLICATION PASSWORD :'replication';
CREATE ROLE tiffin_failover LOGIN REPLICATION PASSWORD :'failover'
    IN ROLE pg_monitor, pg_signal_backend, pg_checkpoint;
GRANT EXECUTE ON FUNCTION pg_promote, pg_reload_conf TO tiffin_failover;
GRANT ALTER SYSTEM ON PARAMETER primary_conninfo, default_transaction_read_only TO tiffin_failover;
CREATE DATABASE app OWNER app;
SQL
    pg_ctl --pgdata="$data" --wait stop
    # A write is acknowledged once a replica has it, whoever is the primary.
    echo "synchronous_standby_names = 'ANY 1 (*)'" >>"$data/postgresql.conf"
}

replica() { # replica HOST
    rm -rf "$data"
    PGPASSWORD=$REPLICATION_PASSWORD pg_basebackup --host="$1" --username=replicator \
        --checkpoint=fast --wal-method=stream --write-recovery-conf --pgdata="$data"
    # What the new primary has set for itself as an old one is not this one's.
    sed -i '/^default_transaction_read_only/d' "$data/postgresql.auto.conf"
}

upstream=$(primary "$@")
if [ -n "$upstream" ] && [ ! -e "$data/standby.signal" ]; then
    replica "$upstream"
elif [ ! -s "$data/PG_VERSION" ] && [ -n "${FIRST:-}" ]; then
    first
elif [ ! -s "$data/PG_VERSION" ]; then
    echo "$self waits for a primary among $*"
    until upstream=$(primary "$@") && [ -n "$upstream" ]; do sleep 0.5; done
    replica "$upstream"
fi
exec postgres -D "$data"
