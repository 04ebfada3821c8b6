#!/bin/bash
# Builds the packages into target/packages:
#
#   packaging/build.sh [--binaries DIR] [--php FILE|none] [--version VERSION] [--out DIR]
#
# nbguard (deb and rpm), nbguard-php (deb, for the PHP that php-config names), the wheel, and
# python3-nbguard-jupyter (deb). As root on Debian it installs what it lacks. The same commit gives
# the same bytes, wherever it is built: SOURCE_DATE_EPOCH is the commit's time where it is not set,
# and no path of this machine gets into a binary.
#
# --binaries and --php package what is built already: for tests, and for whoever builds elsewhere.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
packaging=$root/packaging
binaries='' php='' out=$root/target/packages
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -n 1)
while [ $# -gt 0 ]; do
    case $1 in
        --binaries) binaries=$(realpath "$2") ;;
        --php) php=$2 ;;
        --version) version=$2 ;;
        --out) out=$2 ;;
        *) sed -n '2,/^set/p' "$0" | sed '/^set/d; s/^# \{0,1\}//' >&2; exit 2 ;;
    esac
    shift 2
done
maintainer='The nbguard developers <nbguard@users.noreply.github.com>'
: "${PHP_CONFIG:=php-config}"

say() { echo "packages: $*" >&2; }

# ---- what it takes

missing=''
needs() { command -v "$1" >/dev/null || missing="$missing $2"; }
needs rpmbuild rpm
needs dpkg-shlibdeps dpkg-dev
needs python3 python3
needs cc gcc
needs gzip gzip
if [ -z "$php" ]; then
    needs "$PHP_CONFIG" php-dev
    ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*-linux-gnu/libclang*.so* >/dev/null 2>&1 ||
        missing="$missing libclang-dev"
fi
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "missing here:$missing (as root on Debian they are installed)"
        exit 77
    fi
    say "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    # shellcheck disable=SC2086
    apt-get -y -qq --no-install-recommends install $missing >/dev/null
fi
command -v cargo >/dev/null || PATH=$PATH:$HOME/.cargo/bin

# ---- the same bytes for the same commit

if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct)
fi
export SOURCE_DATE_EPOCH
export LC_ALL=C TZ=UTC
# Of several threads each compresses a part of its own.
export DPKG_DEB_THREADS_MAX=1
umask 022

# Where sources lie, under names that are the same everywhere.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
remap=("--remap-path-prefix=$root=/nbguard" "--remap-path-prefix=$cargo_home=/cargo")

# ---- the binaries

if [ -z "$binaries" ]; then
    say "building nbguardd and nbguard"
    host=$(rustc -vV | sed -n 's/^host: //p')
    # Joined to the flags of .cargo/config.toml, which the environment's would replace.
    (cd "$root" && cargo build --release --locked --bins --target "$host" --config \
        "target.$host.rustflags=[\"${remap[0]}\", \"${remap[1]}\"]" >&2)
    binaries=$root/target/$host/release
fi
if [ -z "$php" ]; then
    say "building the extension for PHP $("$PHP_CONFIG" --version)"
    NBGUARD_REMAP="${remap[*]}" CFLAGS="-ffile-prefix-map=$root=/nbguard" CARGO_QUIET=1 \
        "$root/src/crates/php-ext/build.sh" >&2
    php=$root/target/php-ext/modules/nbguard.so
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
rm -f "$out"/*.deb "$out"/*.rpm "$out"/*.whl

put() { # MODE FILE TARGET
    install -D -m "$1" "$2" "$3"
}

compress() { # FILE: in its place, without its name and time
    gzip -9 -n "$1"
}

# What lies in a tree is as old as the commit, whoever put it there.
settle() { # TREE
    find "$1" -type d -exec chmod 755 {} +
    find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

# ---- nbguard: one tree, of which deb and rpm differ in a few places

tree() { # TREE ZSH
    local to=$1 zsh=$2 page
    put 755 "$binaries/nbguardd" "$to/usr/sbin/nbguardd"
    put 755 "$binaries/nbguard" "$to/usr/bin/nbguard"
    # Cargo leaves the symbols of glibc's own objects in.
    strip "$to/usr/sbin/nbguardd" "$to/usr/bin/nbguard"
    put 644 "$root/conf/nbguard.toml" "$to/etc/nbguard/nbguard.toml"
    mkdir -p "$to/etc/nbguard/conf.d"
    for unit in nbguard nbguard-restore; do
        put 644 "$packaging/$unit.service" "$to/usr/lib/systemd/system/$unit.service"
    done
    put 644 "$packaging/nbguard.catalog" "$to/usr/lib/systemd/catalog/nbguard.catalog"
    put 644 "$packaging/nbguard.tmpfiles" "$to/usr/lib/tmpfiles.d/nbguard.conf"
    local share=$to/usr/share/nbguard
    put 644 "$packaging/notify-reload.conf" "$share/systemd/notify-reload.conf"
    put 644 "$packaging/network.conf" "$share/systemd/network.conf"
    put 644 "$packaging/kernel-log.conf" "$share/systemd/kernel-log.conf"
    put 644 "$packaging/grafana/nbguard.json" "$share/grafana/nbguard.json"
    for page in "$packaging"/prometheus/*.yml; do
        case $page in
            *.test.yml) ;;
            *) put 644 "$page" "$share/prometheus/${page##*/}" ;;
        esac
    done
    put 755 "$packaging/hooks/webhook" "$share/hooks/webhook"
    put 755 "$packaging/hooks/chat" "$share/hooks/chat"
    "$binaries/nbguard" doc man --to "$work/man"
    for page in "$work"/man/*; do
        put 644 "$page" "$to/usr/share/man/man${page##*.}/${page##*/}"
        compress "$to/usr/share/man/man${page##*.}/${page##*/}"
    done
    "$binaries/nbguard" doc completions bash --to "$to/usr/share/bash-completion/completions"
    "$binaries/nbguard" doc completions zsh --to "$to/usr/share/zsh/$zsh"
    "$binaries/nbguard" doc completions fish --to "$to/usr/share/fish/vendor_completions.d"
    find "$to/usr/share" -path '*complet*' -type f -exec chmod 644 {} +
    find "$to/usr/share/zsh" -type f -exec chmod 644 {} +
    local doc=$to/usr/share/doc/nbguard
    put 644 "$root/README.md" "$doc/README.md"
    for page in "$root/SECURITY.md" "$packaging"/doc/*.md; do
        put 644 "$page" "$doc/${page##*/}"
    done
    put 644 "$work/licenses" "$doc/licenses"
    compress "$doc/licenses"
}

# Statically linked: their licenses travel with them.
python3 "$packaging/licenses.py" "$root" >"$work/licenses"

# ---- Debian

fill() { # TEMPLATE TARGET: with what differs from build to build
    sed -e "s|@VERSION@|$version-1|" -e "s|@MAINTAINER@|$maintainer|" -e "s|@SIZE@|${size:-0}|" \
        -e "s|@PHP@|${php_minor:-}|g" -e "s|@PHPAPI@|${php_api:-}|" -e "s|@SHLIBS@|${shlibs:-}|" \
        -e "s|@WHEEL@|${wheel_version:-}|" "$1" >"$2"
}

deb() { # PACKAGE TREE
    local package=$1 to=$2 doc=$2/usr/share/doc/$1 size script
    put 644 "$packaging/deb/copyright" "$doc/copyright"
    {
        echo "$package ($version-1) unstable; urgency=medium"
        echo
        echo "  * What has changed is in changelog.gz beside this file."
        echo
        echo " -- $maintainer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")"
    } >"$doc/changelog.Debian"
    put 644 "$root/CHANGELOG.md" "$doc/changelog"
    compress "$doc/changelog"
    compress "$doc/changelog.Debian"
    put 644 "$packaging/deb/$package/lintian-overrides" "$to/usr/share/lintian/overrides/$package"
    size=$(du -k --apparent-size -s "$to" | cut -f 1)
    mkdir -p "$to/DEBIAN"
    fill "$packaging/deb/$package/control" "$to/DEBIAN/control"
    for script in preinst postinst prerm postrm; do
        if [ -e "$packaging/deb/$package/$script" ]; then
            fill "$packaging/deb/$package/$script" "$to/DEBIAN/$script"
            chmod 755 "$to/DEBIAN/$script"
        fi
    done
    if [ -e "$packaging/deb/$package/triggers" ]; then
        put 644 "$packaging/deb/$package/triggers" "$to/DEBIAN/triggers"
    fi
    if [ -d "$to/etc" ]; then
        (cd "$to" && find etc -type f -printf '/%p\n' | sort) >"$to/DEBIAN/conffiles"
    fi
    (cd "$to" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$to/DEBIAN/md5sums"
    chmod 644 "$to"/DEBIAN/{control,md5sums}
    settle "$to"
    local arch
    arch=$(sed -n 's/^Architecture: //p' "$to/DEBIAN/control")
    # xz: what dpkg of every Debian and Ubuntu reads.
    dpkg-deb --root-owner-group -Zxz --build "$to" "$out/${package}_$version-1_$arch.deb" >/dev/null
    say "${package}_$version-1_$arch.deb"
}

tree "$work/deb/nbguard" vendor-completions
compress "$work/deb/nbguard/usr/share/doc/nbguard/README.md"
deb nbguard "$work/deb/nbguard"

if [ "$php" != none ]; then
    php_minor=$("$PHP_CONFIG" --version | cut -d . -f 1,2)
    php_api=$("$PHP_CONFIG" --phpapi)
    to=$work/deb/nbguard-php
    put 644 "$php" "$to$("$PHP_CONFIG" --extension-dir)/nbguard.so"
    put 644 "$packaging/deb/nbguard-php/nbguard.ini" "$to/etc/php/$php_minor/mods-available/nbguard.ini"
    mkdir -p "$work/shlibs/debian"
    echo 'Source: nbguard' >"$work/shlibs/debian/control"
    shlibs=$(cd "$work/shlibs" && dpkg-shlibdeps -O "$php" 2>/dev/null | sed 's/^shlibs:Depends=//')
    deb nbguard-php "$to"
fi

# ---- the wheel: for images; and for the Jupyter of Debian itself

wheel=$(python3 "$packaging/jupyter/build.py" --out "$out")
wheel_version=$(basename "$wheel" | cut -d - -f 2)
say "$(basename "$wheel")"
to=$work/deb/python3-nbguard-jupyter
python3 "$packaging/jupyter/unpack.py" "$wheel" "$to"
deb python3-nbguard-jupyter "$to"

# ---- rpm

tree "$work/rpm" site-functions
put 644 "$packaging/nbguard.preset" "$work/rpm/usr/lib/systemd/system-preset/80-nbguard.preset"
put 644 "$root/LICENSE" "$work/rpm/usr/share/licenses/nbguard/LICENSE"
put 644 "$root/CHANGELOG.md" "$work/rpm/usr/share/doc/nbguard/CHANGELOG.md"
settle "$work/rpm"
sed -e "s|@DATE@|$(date -u -d "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')|" \
    -e "s|@MAINTAINER@|$maintainer|" -e "s|@VERSION@|$version|" \
    "$packaging/rpm/nbguard.spec" >"$work/nbguard.spec"
rpmbuild -bb --quiet --target x86_64-linux \
    --define "_topdir $work/rpmbuild" --define "_rpmdir $out" --define '_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' \
    --define "_dbpath $work/rpmdb" --define "tree $work/rpm" "$work/nbguard.spec" >&2
say "$(cd "$out" && echo *.rpm)"
