#!/bin/bash
# Finds or makes a rustc that compiles for wasm32-unknown-unknown, and prints how to call it:
#   RUSTC=$(tests/toolchain/wasm-std.sh) cargo build --release --target wasm32-unknown-unknown
#
# In this order: KINDLING_WASM_RUSTC if it is set; the rustc that is there, if it has the target; the same after
# `rustup target add`; a rustc made of Debian's packages rustc-web and rust-web-src (about 70 s of CPU, kept in the folder given as
# argument, by default ~/.cache/kindling/wasm-std). Else it says which command to run, and fails.
set -euo pipefail
TARGET=wasm32-unknown-unknown

say() { echo "wasm-std: $*" >&2; }

has_target() { # RUSTC
    local lib
    lib=$("$1" --print target-libdir --target $TARGET 2>/dev/null) && compgen -G "$lib/libstd-*.rlib" >/dev/null
}

if [ -n "${KINDLING_WASM_RUSTC:-}" ]; then
    has_target "$KINDLING_WASM_RUSTC" || { say "KINDLING_WASM_RUSTC=$KINDLING_WASM_RUSTC has no std for $TARGET"; exit 1; }
    echo "$KINDLING_WASM_RUSTC"
    exit
fi

RUSTC=$(command -v rustc) || { say "there is no rustc: install Rust from https://rustup.rs"; exit 1; }
if has_target "$RUSTC"; then
    echo "$RUSTC"
    exit
fi

DIR=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/kindling/wasm-std}
mkdir -p "$DIR"
DIR=$(cd "$DIR" && pwd)
# Two runs at a time would undo each other's work.
exec 9>"$DIR/.lock"
flock 9

DEBIAN=/usr/bin/rustc
SOURCES=/usr/lib/rustlib/src/rust/library
up_to_date() { [ -x "$DIR/bin/rustc" ] && [ "$(cat "$DIR/.done" 2>/dev/null)" = "$($DEBIAN --version 2>/dev/null)" ]; }
if up_to_date; then
    echo "$DIR/bin/rustc"
    exit
fi

if command -v rustup >/dev/null && timeout 120 rustup target add $TARGET >&2; then
    has_target "$RUSTC" && { echo "$RUSTC"; exit; }
fi

if ! [ -d "$SOURCES/vendor" ]; then
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        say "no std for $TARGET. Run one of these, then try again:"
        say "    rustup target add $TARGET"
        say "    sudo apt-get install --no-install-recommends rustc-web rust-web-src    (Debian and its kin)"
        exit 1
    fi
    say "installing rustc-web and rust-web-src"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rustc-web rust-web-src >&2
fi

HOST=$("$RUSTC" -vV | sed -n 's/^host: //p')
TOOLS=$("$RUSTC" --print sysroot)/lib/rustlib/$HOST/bin # rust-lld
[ -x "$TOOLS/rust-lld" ] || { say "no rust-lld in $TOOLS: install Rust from https://rustup.rs"; exit 1; }

say "making a std for $TARGET in $DIR"
rm -rf "$DIR/lib" "$DIR/bin" "$DIR/build" "$DIR/.done"
mkdir -p "$DIR/build/src" "$DIR/bin" "$DIR/lib/rustlib/$TARGET/lib" "$DIR/lib/rustlib/$HOST"
ln -s "/usr/lib/rustlib/$HOST/lib" "$DIR/lib/rustlib/$HOST/lib"
ln -s "$TOOLS" "$DIR/lib/rustlib/$HOST/bin"
printf '#!/bin/sh\nexec %s --sysroot %s "$@"\n' $DEBIAN "$DIR" >"$DIR/bin/rustc"
chmod +x "$DIR/bin/rustc"
printf '[package]\nname = "empty"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n' >"$DIR/build/Cargo.toml"
echo '#![no_std]' >"$DIR/build/src/lib.rs"
# Guests are linked with LTO, which needs std's bitcode.
(cd "$DIR/build" && env -u CARGO_BUILD_TARGET RUSTFLAGS=-Cembed-bitcode=yes RUSTC=$DEBIAN RUSTC_BOOTSTRAP=1 \
    CARGO_TARGET_DIR="$DIR/build/target" CARGO_PROFILE_RELEASE_DEBUG=false \
    cargo build --release --offline -Zbuild-std=std,panic_abort,proc_macro,test --target $TARGET \
    --config 'source.crates-io.replace-with="vendored"' --config "source.vendored.directory=\"$SOURCES/vendor\"" >&2)
cp "$DIR/build/target/$TARGET"/release/deps/lib*.rlib "$DIR/lib/rustlib/$TARGET/lib/"
rm -rf "$DIR/lib/rustlib/$TARGET/lib/"libempty-*.rlib "$DIR/build"
$DEBIAN --version >"$DIR/.done"
echo "$DIR/bin/rustc"
