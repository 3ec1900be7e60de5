#!/bin/sh
# Puts MySQL 9 beside what the system has: the server and the client programs from Debian's
# unstable suite, with the libraries that they were built with, unpacked in a cache folder
# (debian-unstable.sh says how and where). It is done once.
#
#   scripts/mysql-9.sh            the server and the client programs
#   scripts/mysql-9.sh path       prints where that is, and does nothing else
#
# The server is started with `--basedir` and `--plugin-dir`: it looks for its messages and
# character sets in the folder that it was built for.
set -eu

name=mysql-9
title="MySQL 9"
. "$(dirname "$0")/debian-unstable.sh"

case ${1:-server} in
server) [ -f "$done_file" ] && exit 0 ;;
path)
    echo "$root"
    exit 0
    ;;
*)
    echo "usage: scripts/mysql-9.sh [server|path]" >&2
    exit 2
    ;;
esac

check_commands
prepare deb
[ -f "$done_file" ] && exit 0
unpack '^(lib|zlib|mysql-)' mysql-server-core mysql-client-core
relocate "$root/usr/sbin"/* "$root/usr/bin"/*
for program in sbin/mysqld bin/mysql bin/mysqldump bin/mysqlbinlog; do
    "$root/usr/$program" --version >/dev/null
done
case $("$root/usr/sbin/mysqld" --version) in
*"Ver 9."*) ;;
*)
    echo "Debian's unstable suite has no MySQL 9 any more" >&2
    exit 1
    ;;
esac
date -u >"$done_file"
