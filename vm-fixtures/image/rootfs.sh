#!/bin/sh
# rootfs.sh <inputs> <work>: unpacks a Debian root into <work>/root and a stock Debian kernel into
# <work>/kernel. Needs root, installs nothing on the host.
set -eu
inputs=$1 work=$2
suite=bookworm

lines() { grep -v -e '^#' -e '^$' "$1"; }
include=$(lines "$inputs/packages" | paste -sd,)

# The kernel comes through the apt of the new root, so its release does not depend on the host's.
cat >"$work/fetch-kernel" <<'EOF'
set -eu
export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
cd "$KERNEL_DIR"
package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: *//p' | head -n 1)
apt-get download "$package"
EOF
mkdir -p "$work/kernel"
export KERNEL_DIR="$work/kernel"
mmdebstrap --mode=root --variant=minbase --include="$include" \
    --aptopt='APT::Install-Recommends "false"' \
    --aptopt='APT::Sandbox::User "root"' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --customize-hook="sh '$work/fetch-kernel'" \
    $suite "$work/root"

cd "$work/kernel"
dpkg -x ./linux-image-*.deb .
rm ./linux-image-*.deb
version=$(ls lib/modules)
from=lib/modules/$version to=$work/root/usr/lib/modules/$version
mkdir -p "$to"
cp "$from"/modules.* "$to/"
lines "$inputs/modules" | while read -r sign path; do
    case $sign in
    +)
        [ -e "$from/kernel/$path" ] || { echo "no such module: $path" >&2; exit 1; }
        mkdir -p "$to/kernel/$(dirname "$path")"
        cp -a "$from/kernel/$path" "$to/kernel/$(dirname "$path")/"
        ;;
    -) rm -rf "${to:?}/kernel/$path" ;;
    esac
done
mv boot/vmlinuz-* "$work/bzImage"
