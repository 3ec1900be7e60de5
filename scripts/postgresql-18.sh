#!/bin/sh
# Puts PostgreSQL 18 beside the system's own: its programs from Debian's unstable suite, with the
# libraries that they were built with, unpacked in a cache folder (debian-unstable.sh says how and
# where). It is done once.
#
#   scripts/postgresql-18.sh            the server and the client programs
#   scripts/postgresql-18.sh regress    also the files of its regression suite
#   scripts/postgresql-18.sh path       prints where that is, and does nothing else
#
# PostgreSQL finds its `share` and `lib` folders from where its program is.
set -eu

version=18
name=postgresql-$version
title="PostgreSQL $version"
. "$(dirname "$0")/debian-unstable.sh"
suite_done_file=$root/regress/complete

wanted=${1:-server}
case $wanted in
server) [ -f "$done_file" ] && exit 0 ;;
regress) [ -f "$done_file" ] && [ -f "$suite_done_file" ] && exit 0 ;;
path)
    echo "$root"
    exit 0
    ;;
*)
    echo "usage: scripts/postgresql-18.sh [server|regress|path]" >&2
    exit 2
    ;;
esac

if [ "$wanted" = regress ]; then
    check_commands bzip2
    prepare deb deb-src
else
    check_commands
    prepare deb
fi

if [ ! -f "$done_file" ]; then
    unpack "^(lib|zlib|postgresql(-client)?-$version\$)" "postgresql-$version"
    # pg_regress is among the client's programs.
    tests=$root/usr/lib/postgresql/$version/lib/pgxs/src/test
    relocate "$root/usr/lib/postgresql/$version/bin"/* "$tests/regress/pg_regress"
    for program in postgres initdb pg_basebackup psql; do
        "$root/usr/lib/postgresql/$version/bin/$program" --version >/dev/null
    done
    date -u >"$done_file"
fi

if [ "$wanted" = regress ] && [ ! -f "$suite_done_file" ]; then
    suite=$root/regress
    rm -rf "$suite"
    mkdir -p "$suite"
    # The suite's library of functions in C is made for those who build extensions.
    (cd "$work" && apt-get -qq download "postgresql-server-dev-$version")
    dpkg-deb -x "$work/postgresql-server-dev-$version"_*.deb "$work/dev"
    cp "$work/dev/usr/lib/postgresql/$version/lib/regress.so" \
        "$root/usr/lib/postgresql/$version/lib/"
    # The suite of the server's own version: its scripts, their data and the expected output.
    (cd "$work" && apt-get -qq --download-only source "postgresql-$version")
    tar -xjf "$work/postgresql-$version"_*.orig.tar.bz2 -C "$suite" --strip-components=4 \
        --wildcards '*/src/test/regress/sql' '*/src/test/regress/expected' \
        '*/src/test/regress/data' '*/src/test/regress/*_schedule' '*/src/test/regress/resultmap'
    date -u >"$suite_done_file"
fi
