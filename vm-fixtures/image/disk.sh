#!/bin/sh
# disk.sh <inputs> <work>: sets up the guest in <work>/root, then writes <work>/initramfs and the
# system disk <work>/root.img. No loop device: the host may have none, and may scan no partitions.
set -eu
inputs=$1 work=$2
root=$work/root
size_mib=4096 start_mib=1

lines() { grep -v -e '^#' -e '^$' "$1"; }

version=$(ls "$root/usr/lib/modules")
depmod -b "$root" "$version"

# The guest.
install -D -m 755 "$inputs/agent" "$root/usr/local/sbin/vm-agent"
install -D -m 644 "$inputs/agent.service" "$root/etc/systemd/system/vm-agent.service"
install -D -m 644 "$inputs/udev-trigger.conf" \
    "$root/etc/systemd/system/systemd-udev-trigger.service.d/trim.conf"
lines "$inputs/masked-units" | while read -r unit; do
    rm -f "$root/etc/systemd/system/$unit"
    ln -s /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/systemd/system/multi-user.target.wants" "$root/etc/systemd/journald.conf.d" \
    "$root/etc/systemd/system.conf.d" "$root/etc/systemd/system/local-fs.target.wants"
ln -sf ../vm-agent.service "$root/etc/systemd/system/multi-user.target.wants/vm-agent.service"
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
ln -sf /usr/share/systemd/tmp.mount "$root/etc/systemd/system/tmp.mount"
ln -sf ../tmp.mount "$root/etc/systemd/system/local-fs.target.wants/tmp.mount"
printf '[Journal]\nStorage=volatile\n' >"$root/etc/systemd/journald.conf.d/volatile.conf"
# A script in the background must not hold up a clean power-off for the usual 90 s.
printf '[Manager]\nDefaultTimeoutStopSec=10s\n' >"$root/etc/systemd/system.conf.d/stop.conf"
echo node >"$root/etc/hostname"
printf '127.0.0.1 localhost node\n::1 localhost\n' >"$root/etc/hosts"
# A machine id of its own, or systemd would treat every boot as the first.
echo 6f3b1a0c52d94e7f8a1b2c3d4e5f6071 >"$root/etc/machine-id"
: >"$root/etc/fstab"
rm -f "$root/etc/resolv.conf"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
# udev's rules stay as Debian ships them but for one; arrays, volume groups and bcache on test
# disks are assembled only when a test asks for it.
mkdir -p "$root/etc/mdadm"
echo 'AUTO -all' >"$root/etc/mdadm/mdadm.conf"
[ ! -e "$root/etc/lvm/lvm.conf" ] ||
    sed -i 's/^[# \t]*event_activation = 1/\tevent_activation = 0/' "$root/etc/lvm/lvm.conf"
ln -s /dev/null "$root/etc/udev/rules.d/69-bcache.rules"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/log/*

# The initramfs.
tree=$work/initramfs.d
mkdir -p "$tree/bin" "$tree/dev" "$tree/modules"
cp "$root/usr/bin/busybox" "$tree/bin/" 2>/dev/null || cp "$root/bin/busybox" "$tree/bin/"
install -m 755 "$inputs/initramfs-init" "$tree/init"
mknod "$tree/dev/console" c 5 1
lines "$inputs/initramfs-modules" | while read -r module; do
    modprobe --dirname "$root" --set-version "$version" --show-depends "$module"
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' | while read -r path; do
    cp "$path" "$tree/modules/"
    basename "$path"
done >"$tree/modules.order"
(cd "$tree" && find . | LC_ALL=C sort | cpio -o -H newc --quiet --owner=0:0) >"$work/initramfs"

# The system disk: GPT, one ext4 partition. The tables are written in full here, so that the
# guest's kernel has no lazy initialisation left to do beside the test.
truncate -s "${size_mib}M" "$work/root.img"
sgdisk --clear --new="1:${start_mib}M:0" --typecode=1:8304 --change-name=1:root "$work/root.img"
sectors=$(sgdisk --info=1 "$work/root.img" | sed -n 's/^Partition size: \([0-9]*\).*/\1/p')
mke2fs -q -t ext4 -L root -d "$root" -E "offset=$((start_mib << 20)),lazy_itable_init=0,lazy_journal_init=1,root_owner=0:0" \
    "$work/root.img" "$((sectors / 8 * 4))k"
rm -rf "$root" "$tree" "$work/kernel" "$work/fetch-kernel" "$work/bzImage"
