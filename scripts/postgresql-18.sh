#!/bin/sh
# Puts PostgreSQL 18 beside the system's own: its programs from Debian's unstable suite, with the
# libraries that they were built with, unpacked in a cache folder. Nothing is installed into the
# system, no rights are needed, and it is done once.
#
#   scripts/postgresql-18.sh            the server and the client programs
#   scripts/postgresql-18.sh regress    also the files of its regression suite
#   scripts/postgresql-18.sh path       prints where that is, and does nothing else
#
# The programs are told by patchelf to use the dynamic loader and the libraries beside them, so
# they run on any Linux of the same processor, whatever its C library. PostgreSQL finds its
# `share` and `lib` folders from where its program is.
#
# TIFFIN_CACHE is the cache folder: /var/cache/tiffin for root (the servers' user must be able to
# enter it, so not the home folder), else ~/.cache/tiffin. TIFFIN_DEBIAN_MIRROR is the mirror.
set -eu

if [ "$(id -u)" = 0 ]; then
    cache=${TIFFIN_CACHE:-/var/cache/tiffin}
else
    cache=${TIFFIN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tiffin}
fi
mirror=${TIFFIN_DEBIAN_MIRROR:-http://deb.debian.org/debian}
version=18
root=$cache/postgresql-$version
# Written last: what lies there without it is half done.
done_file=$root/complete
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

missing() { # missing COMMAND...: those that cannot be found
    for command in "$@"; do
        command -v "$command" >/dev/null 2>&1 || printf ' %s' "$command"
    done
}
needed="apt-get dpkg-deb patchelf flock"
[ "$wanted" = regress ] && needed="$needed bzip2"
# shellcheck disable=SC2086 # a list of commands
absent=$(missing $needed)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keyring" ] || absent="$absent $keyring"
if [ -n "$absent" ]; then
    echo "PostgreSQL $version for the tests needs on this machine:$absent" >&2
    echo "(Debian's packages apt, dpkg, patchelf, bzip2, util-linux, debian-archive-keyring)" >&2
    exit 1
fi

umask 022
mkdir -p "$cache"
# Another clone of the project may be doing the same.
exec 9>"$cache/lock"
flock 9

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# An apt of our own: the system's lists, sources and packages play no part. A mirror that is a
# frozen copy has a release file that is past its date; its signature is still checked.
mkdir -p "$work/etc" "$work/state/lists/partial" "$work/archives/partial" "$work/empty"
: >"$work/state/status"
kinds=deb
[ "$wanted" = regress ] && kinds="deb deb-src"
for kind in $kinds; do
    echo "$kind [signed-by=$keyring] $mirror unstable main"
done >"$work/etc/sources.list"
cat >"$work/apt.conf" <<END
Dir::Etc "$work/etc";
Dir::Etc::sourcelist "sources.list";
Dir::Etc::sourceparts "$work/empty";
Dir::Etc::parts "$work/empty";
Dir::Etc::preferencesparts "$work/empty";
Dir::State "$work/state";
Dir::State::status "$work/state/status";
Dir::Cache "$work";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Acquire::Retries "3";
END
export APT_CONFIG="$work/apt.conf"

relocate() { # relocate FILE...: each program among them uses the libraries of the root
    loader=$(find "$root/usr/lib" -name 'ld-linux*.so.*' -type f)
    libraries=$(dirname "$loader")
    for file in "$@"; do
        # The others are scripts.
        patchelf --print-interpreter "$file" >/dev/null 2>&1 || continue
        patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$file"
    done
}

echo "PostgreSQL $version into $root"
apt-get -qq update

if [ ! -f "$done_file" ]; then
    rm -rf "$root"
    # The server and its libraries; what only its installation scripts need stays out.
    packages=$(apt-get -qq install -y --print-uris "postgresql-$version" |
        sed -n "s/^'[^']*' \([^_]*\)_.*/\1/p" |
        grep -E "^(lib|zlib|postgresql(-client)?-$version\$)" | grep -v '^libperl')
    # shellcheck disable=SC2086 # a list of packages
    (cd "$work" && apt-get -qq download $packages)
    mkdir -p "$root"
    for package in "$work"/*.deb; do
        dpkg-deb -x "$package" "$root"
    done
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
