#!/bin/sh
# Installs what this machine lacks, with apt-get, as root or by sudo. Does nothing, and asks the
# network nothing, when all is there.
#
#   scripts/install-deps.sh test            PostgreSQL's and MariaDB's server programs, a C
#                                           compiler, and beside them PostgreSQL 18, MySQL 9 and
#                                           MariaDB 11 (scripts/postgresql-18.sh, scripts/mysql-9.sh,
#                                           scripts/mariadb-11.sh)
#   scripts/install-deps.sh test failover   also etcd and Patroni
#   scripts/install-deps.sh test containers also, for root, Docker and what makes its first image
#   scripts/install-deps.sh test drivers    also the languages of the drivers' programs, and
#                                           pgjdbc; scripts/install-drivers.sh does the others
#   scripts/install-deps.sh release         what `make release` runs: servers, a C compiler,
#                                           pgbench, sysbench, openssl and python3
#   scripts/install-deps.sh test bench      also HAProxy, PgBouncer, pgbench, sysbench and python3
#   scripts/install-deps.sh test regress    also PostgreSQL 18's regression suite
set -eu

here=$(dirname "$0")
# Where servers are, which is not in everybody's.
PATH=$PATH:/usr/sbin

missing=""
need() { # need PACKAGE COMMAND...: the package, if one of the commands cannot be found
    package=$1
    shift
    for command in "$@"; do
        command -v "$command" >/dev/null 2>&1 || { missing="$missing $package"; return; }
    done
}

need_jar() { # need_jar PACKAGE NAME: where Debian keeps the libraries of Java
    [ -f "/usr/share/java/$2.jar" ] || missing="$missing $1"
}

need_python_with_venv() {
    for python in python3 /usr/bin/python3; do
        "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
            2>/dev/null || continue
        # mysqlclient is compiled.
        header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
        [ -f "$header" ] || missing="$missing python3-dev"
        return
    done
    missing="$missing python3 python3-venv python3-dev"
}

has_postgres() {
    for folder in "${TIFFIN_PG_BIN:-}" /usr/lib/postgresql/*/bin; do
        [ -x "$folder/postgres" ] && [ -x "$folder/pg_basebackup" ] && return
    done
    command -v postgres >/dev/null 2>&1 && command -v pg_basebackup >/dev/null 2>&1
}

for group in "${@:-test}"; do
    case $group in
    test)
        need gcc cc
        need libc6-dev cc
        need make make
        need findutils find
        need patchelf patchelf
        need util-linux flock
        [ -f /usr/share/keyrings/debian-archive-keyring.gpg ] ||
            missing="$missing debian-archive-keyring"
        has_postgres || missing="$missing postgresql"
        # Not mariadb-server, which would start a service. Debian's packages of MySQL exclude it.
        need mariadb-server-core mariadbd mariadb-install-db
        need mariadb-client mariadb mariadb-dump
        ;;
    failover)
        need etcd-server etcd
        need patroni patroni
        ;;
    containers)
        # Others get no daemon that they could not start.
        if [ "$(id -u)" = 0 ]; then
            docker compose version >/dev/null 2>&1 || need docker-compose docker-compose
            need docker.io dockerd docker
            need debootstrap debootstrap
            need iproute2 ip
        fi
        ;;
    drivers)
        need postgresql-contrib pgbench
        need_python_with_venv
        need libmariadb-dev mariadb_config
        need pkg-config pkg-config
        # javac also runs a program of one source file.
        need default-jdk-headless javac
        need_jar libpostgresql-jdbc-java postgresql
        need_jar libmariadb-java mariadb-java-client
        need mariadb-client mariadb
        need_jar libhikaricp-java HikariCP
        need_jar libslf4j-java slf4j-nop
        ;;
    release)
        need gcc cc
        need libc6-dev cc
        has_postgres || missing="$missing postgresql"
        need mariadb-server-core mariadbd mariadb-install-db
        need mariadb-client mariadb
        need sysbench sysbench
        need openssl openssl
        need python3 python3
        need postgresql-contrib pgbench
        ;;
    bench)
        need haproxy haproxy
        need pgbouncer pgbouncer
        need sysbench sysbench
        need mariadb-client mariadb
        need python3 python3
        need postgresql-contrib pgbench
        ;;
    regress)
        need bzip2 bzip2
        need diffutils diff
        ;;
    *)
        echo "usage: scripts/install-deps.sh [test] [failover] [containers] [drivers] [release] [bench] [regress]" >&2
        exit 2
        ;;
    esac
done

if ! command -v cargo >/dev/null 2>&1; then
    echo "cargo is missing: install Rust from https://rustup.rs and run this again" >&2
    exit 1
fi
for component in fmt clippy; do
    cargo "$component" --version >/dev/null 2>&1 && continue
    [ "$component" = fmt ] && component=rustfmt
    if ! command -v rustup >/dev/null 2>&1; then
        echo "cargo $component is missing: install the component $component of your Rust" >&2
        exit 1
    fi
    rustup component add "$component"
done

install_missing() {
    [ -z "$missing" ] && return
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "please install, by the names they have on this system:$missing" >&2
        exit 1
    fi
    as_root=""
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null 2>&1; then
            echo "please install as root: apt-get install$missing" >&2
            exit 1
        fi
        as_root=sudo
    fi
    apt() {
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@"
    }

    echo "installing:$missing"
    apt update
    case $missing in
    *" postgresql"*)
        # The package would create a cluster of its own and start it; nobody asked for that one.
        apt install -y --no-install-recommends postgresql-common
        conf=/etc/postgresql-common/createcluster.conf
        if [ -f "$conf" ] && ! grep -q '^create_main_cluster' "$conf"; then
            echo 'create_main_cluster = false' | $as_root tee -a "$conf" >/dev/null
        fi
        ;;
    esac
    # shellcheck disable=SC2086 # a list of packages
    apt install -y --no-install-recommends --no-remove $missing
}

install_missing
for group in "${@:-test}"; do
    case $group in
    test)
        "$here/postgresql-18.sh" server
        "$here/mysql-9.sh" server
        "$here/mariadb-11.sh" server
        ;;
    regress) "$here/postgresql-18.sh" regress ;;
    esac
done
