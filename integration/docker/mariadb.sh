#!/bin/sh
# mariadb.sh ID [PRIMARY]: makes the data directory at the first start, then becomes the server; a
# replica of PRIMARY if one is named. Passwords come from the environment.
set -eu
data=/data/main
id=$1
primary=${2:-}

[ -d "$data/mysql" ] || mariadb-install-db --no-defaults --datadir="$data" \
    --auth-root-authentication-method=normal --skip-test-db >/dev/null

# Run at each start, and in nobody's binary log: every server has them by itself.
{
    echo "SET SESSION sql_log_bin = 0;"
    for user in app:"$APP_PASSWORD" tiffin:"$TIFFIN_PASSWORD" replicator:"$REPLICATION_PASSWORD"; do
        echo "CREATE USER IF NOT EXISTS ${user%%:*}@'%' IDENTIFIED BY '${user#*:}';"
    done
    cat <<SQL
CREATE DATABASE IF NOT EXISTS app;
GRANT ALL ON app.* TO app@'%';
GRANT REPLICATION SLAVE ON *.* TO replicator@'%';
GRANT SLAVE MONITOR, BINLOG MONITOR, CONNECTION ADMIN, SELECT, SHOW VIEW, TRIGGER ON *.* TO tiffin@'%';
SQL
    [ -z "$primary" ] || cat <<SQL
CHANGE MASTER TO MASTER_HOST='$primary', MASTER_USER='replicator',
    MASTER_PASSWORD='$REPLICATION_PASSWORD', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1;
START SLAVE;
SQL
} >/data/init.sql

exec mariadbd --no-defaults --datadir="$data" --socket=/data/socket --port=3306 \
    --server-id="$id" --report-host="$(hostname)" --report-port=3306 \
    --log-bin=binlog --log-slave-updates=ON --gtid-strict-mode=ON --skip-name-resolve \
    --read-only="$([ -n "$primary" ] && echo ON || echo OFF)" --init-file=/data/init.sql
