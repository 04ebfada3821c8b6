#!/bin/sh
# Builds nbguard's extension for the PHP that php-config names, and says where it is:
#   src/crates/php-ext/build.sh [--install]
# PHP_CONFIG=php-config8.2 chooses another PHP. One build fits one minor version of PHP.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
: "${PHP_CONFIG:=php-config}"
export PHP_CONFIG

missing=
command -v cargo >/dev/null || missing="$missing\n  cargo: https://rustup.rs, 1.91 or newer"
command -v cc >/dev/null || missing="$missing\n  a C compiler: apt install gcc"
command -v "$PHP_CONFIG" >/dev/null || missing="$missing\n  $PHP_CONFIG: apt install php-dev (php8.2-dev)"
found=
for at in ${LIBCLANG_PATH:-} /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu /usr/lib64 /usr/lib; do
    for file in "$at"/libclang*.so*; do [ -e "$file" ] && found=yes; done
done
[ -n "$found" ] || missing="$missing\n  libclang: apt install libclang-dev"
if [ -n "$missing" ]; then
    printf "The extension cannot be built here. Missing:$missing\n" >&2
    exit 77
fi
# ext-php-rs wants a path.
PHP_CONFIG=$(command -v "$PHP_CONFIG")
version=$("$PHP_CONFIG" --version)
if [ "$("$PHP_CONFIG" --vernum)" -lt 80100 ]; then
    echo "PHP $version is too old: 8.1 or newer is needed" >&2
    exit 1
fi

# ext-php-rs asks the interpreter itself, too: of the same version.
php=$("$PHP_CONFIG" --php-binary 2>/dev/null || true)
[ -x "$php" ] && export PHP="$php"

# NBGUARD_REMAP: packaging/build.sh gives sources names that are the same everywhere.
# In the environment, flags take the place of those that make the rest of the repository static.
cd "$here"
RUSTFLAGS="-C relocation-model=pic ${NBGUARD_REMAP:-}" cargo build --release --locked ${CARGO_QUIET:+--quiet}
built=$(ls -t "$root"/target/php-ext/*/release/libnbguard_php.so "$root"/target/php-ext/release/libnbguard_php.so 2>/dev/null | head -n 1)
mkdir -p "$root/target/php-ext/modules"
# Put in its place whole: a PHP that has the old one loaded keeps it.
cp "$built" "$root/target/php-ext/modules/.nbguard.so"
mv "$root/target/php-ext/modules/.nbguard.so" "$root/target/php-ext/modules/nbguard.so"

if [ "${1:-}" = --install ]; then
    to=$("$PHP_CONFIG" --extension-dir)
    install -m 644 "$built" "$to/.nbguard.so"
    mv "$to/.nbguard.so" "$to/nbguard.so"
    echo "$to/nbguard.so for PHP $version. Load it: extension=nbguard"
else
    echo "$root/target/php-ext/modules/nbguard.so for PHP $version"
fi
