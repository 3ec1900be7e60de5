#!/bin/sh
# Puts MariaDB 11.8 beside what the system has: the server with its plugins and the client programs
# from Debian's unstable suite, with the libraries that they were built with, unpacked in a cache
# folder (debian-unstable.sh says how and where). It is done once. Tests of what MariaDB 10.11 does
# not have use it.
#
#   scripts/mariadb-11.sh         the server and the client programs
#   scripts/mariadb-11.sh path    prints where that is, and does nothing else
set -eu

name=mariadb-11
title="MariaDB 11"
. "$(dirname "$0")/debian-unstable.sh"

case ${1:-server} in
server) [ -f "$done_file" ] && exit 0 ;;
path)
    echo "$root"
    exit 0
    ;;
*)
    echo "usage: scripts/mariadb-11.sh [server|path]" >&2
    exit 2
    ;;
esac

check_commands
prepare deb
[ -f "$done_file" ] && exit 0
unpack '^(lib|zlib|mariadb-)' mariadb-server
relocate "$root/usr/sbin"/* "$root/usr/bin"/*
"$root/usr/sbin/mariadbd" --version
for plugin in auth_ed25519 auth_parsec; do
    test -f "$root/usr/lib/mysql/plugin/$plugin.so"
done
date -u >"$done_file"
