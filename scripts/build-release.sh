#!/bin/sh
# Builds target/trained/tiffin, the program for production: a first one counts what runs
# (bench/train.py), and the compiler lays out the second one by these counts (profile-guided
# optimisation). Needs what `scripts/install-deps.sh release` installs, and some 20 minutes on two
# cores; `cargo build --release` makes a slower program in less than half of that.
set -eu
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
folder=$PWD/target/trained
counts=$folder/counts
profile=$folder/profile

merge=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
if [ ! -x "$merge" ]; then
    if ! command -v rustup >/dev/null 2>&1; then
        echo "llvm-profdata is missing: install the component llvm-tools of your Rust" >&2
        exit 1
    fi
    rustup component add llvm-tools
fi

# With --target, what only runs during the build does not count.
build() { # build FOLDER FLAG: the program, by this flag of the compiler
    RUSTFLAGS="${RUSTFLAGS:-} $2" ${CARGO:-cargo} build --locked --release --bin tiffin \
        --target "$host" --target-dir "$1"
}

build "$folder/counting" "-Cprofile-generate=$counts"
counting=$folder/counting/$host/release/tiffin
if [ ! -f "$profile" ] || [ "$counting" -nt "$profile" ]; then
    rm -rf "$counts"
    python3 bench/train.py --tiffin "$counting"
    "$merge" merge -o "$profile" "$counts"
fi
build "$folder/trained" "-Cprofile-use=$profile"
cp "$folder/trained/$host/release/tiffin" "$folder/tiffin"
echo "built $folder/tiffin"
