# What the scripts share that put a server of Debian's unstable suite beside the system's own.
# They read it with `.`, after setting `name`, the name of the server's folder in the cache, and
# `title`, its name for people. Nothing is installed into the system and no rights are needed.
#
# The programs are told by patchelf to use the dynamic loader and the libraries beside them, so
# they run on any Linux of the same processor, whatever its C library.
#
# TIFFIN_CACHE is the cache folder: /var/cache/tiffin for root (the servers' user must be able to
# enter it, so not the home folder), else ~/.cache/tiffin. TIFFIN_DEBIAN_MIRROR is the mirror.
# shellcheck shell=sh disable=SC2154 # the caller sets name and title

if [ "$(id -u)" = 0 ]; then
    cache=${TIFFIN_CACHE:-/var/cache/tiffin}
else
    cache=${TIFFIN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tiffin}
fi
root=$cache/$name
# Written last: what lies there without it is half done.
done_file=$root/complete
mirror=${TIFFIN_DEBIAN_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

check_commands() { # check_commands COMMAND...: ends the script if one cannot be found
    absent=""
    for command in apt-get dpkg-deb patchelf flock "$@"; do
        command -v "$command" >/dev/null 2>&1 || absent="$absent $command"
    done
    [ -f "$keyring" ] || absent="$absent $keyring"
    [ -z "$absent" ] && return
    echo "$title for the tests needs on this machine:$absent" >&2
    echo "(Debian's packages apt, dpkg, patchelf, bzip2, util-linux, debian-archive-keyring)" >&2
    exit 1
}

# prepare KIND...: the lock, the folder `work`, and in it an apt of our own, for which the
# system's lists, sources and packages play no part. A mirror that is a frozen copy has a release
# file that is past its date; its signature is still checked.
prepare() {
    umask 022
    mkdir -p "$cache"
    # Another clone of the project may be doing the same.
    exec 9>"$cache/lock"
    flock 9
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM

    echo "$title into $root"
    mkdir -p "$work/etc" "$work/state/lists/partial" "$work/archives/partial" "$work/empty"
    : >"$work/state/status"
    for kind in "$@"; do
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
    apt-get -qq update
}

# unpack PATTERN PACKAGE...: into an empty root these packages and what they need, of which only
# names that the extended regular expression matches: what only their installation scripts need
# stays out.
unpack() {
    pattern=$1
    shift
    rm -rf "$root"
    packages=$(apt-get -qq install -y --print-uris "$@" |
        sed -n "s/^'[^']*' \([^_]*\)_.*/\1/p" | grep -E "$pattern" | grep -v '^libperl')
    # shellcheck disable=SC2086 # a list of packages
    (cd "$work" && apt-get -qq download $packages)
    mkdir -p "$root"
    for package in "$work"/*.deb; do
        dpkg-deb -x "$package" "$root"
    done
}

relocate() { # relocate FILE...: each program among them uses the libraries of the root
    loader=$(find "$root/usr/lib" -name 'ld-linux*.so.*' -type f)
    libraries=$(dirname "$loader")
    for file in "$@"; do
        # The others are scripts.
        patchelf --print-interpreter "$file" >/dev/null 2>&1 || continue
        patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$file"
    done
}
