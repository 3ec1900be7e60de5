#!/bin/sh
# start.sh primary | start.sh replica HOST: makes the data directory at the first start, then
# becomes the server. Passwords come from the environment.
set -eu
data=/data/main

if [ ! -s "$data/PG_VERSION" ]; then
    case $1 in
    primary)
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
            -v replication="$REPLICATION_PASSWORD" <<'SQL'
CREATE ROLE app LOGIN PASSWORD :'app';
CREATE ROLE tiffin LOGIN PASSWORD :'tiffin' IN ROLE pg_monitor;
CREATE ROLE replicator LOGIN REPLICATION PASSWORD :'replication';
CREATE DATABASE app OWNER app;
SQL
        pg_ctl --pgdata="$data" --wait stop
        ;;
    replica)
        slot=$(hostname | tr -c 'a-z0-9\n' '_')
        PGPASSWORD=$REPLICATION_PASSWORD pg_basebackup --host="$2" --username=replicator \
            --checkpoint=fast --wal-method=stream --write-recovery-conf \
            --create-slot --slot="replica_$slot" --pgdata="$data"
        ;;
    *)
        echo "usage: start.sh primary | start.sh replica HOST" >&2
        exit 2
        ;;
    esac
fi
exec postgres -D "$data"
