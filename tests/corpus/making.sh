# shellcheck shell=bash disable=SC2154
# What the scripts of the corpus can call. They run in a directory of their
# own, which has a directory `files` to be packed and a mountpoint `tree`.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

# at BYTE: writes its standard input over the disk from there on.
at() {
    dd of="$disk" bs=64K seek="$1" oflag=seek_bytes conv=notrunc,fsync iflag=fullblock status=none
}

# zero BYTE LENGTH: as if it had never been written.
zero() {
    dd if=/dev/zero of="$disk" bs=64K count="$2" seek="$1" iflag=count_bytes \
        oflag=seek_bytes conv=notrunc,fsync status=none
}

# put FILE: an image at the beginning of the disk.
put() { at 0 <"$1"; }

# wait_for NODE: a partition's node, which udevd makes after the kernel knows it.
wait_for() {
    udevadm settle --timeout=600
    for _ in $(seq 600); do [ ! -b "$1" ] || return 0; sleep 0.1; done
    echo "$1 did not appear" >&2
    return 1
}

# store TYPE: a file in the filesystem on the disk.
store() {
    mount -t "$1" "$disk" tree
    echo precious >tree/data
    umount tree
}

# encrypt ARGUMENTS: LUKS without the seconds that a good key derivation takes.
encrypt() {
    printf secret | cryptsetup -q luksFormat --key-file - --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "$@"
}

# array NAME ARGUMENTS: an array that was made and stopped. One at a time: two
# mdadm at once can choose the same free number for their devices.
array() {
    exec 8>/run/lock/md-corpus
    flock 8
    mdadm --create "/dev/md/$1" --run "${@:2}" 8>&-
    mdadm --stop "/dev/md/$1" 8>&-
    udevadm settle --timeout=600
    exec 8>&-
}

# mirror VERSION: one half of a mirror, with metadata of that version.
mirror() {
    array "$row" -e "$1" -l 1 -n 2 "$disk" missing
}

# pool NAME: a ZFS pool, exported. One at a time: there is one daemon.
pool() {
    exec 9>/run/lock/zfs-corpus
    flock 9
    zfs-fuse --pidfile "$PWD/pid" 9>&-
    for _ in $(seq 600); do zpool status >/dev/null 2>&1 && break; sleep 0.1; done
    zpool create -f -m none "$1" "$disk"
    zpool export "$1"
    local daemon
    daemon=$(<pid)
    kill "$daemon"
    while [ -e "/proc/$daemon" ]; do sleep 0.1; done
    exec 9>&-
}

# gpt_4096: a GPT for sectors of 4096 bytes, whatever the disk's are.
gpt_4096() {
    local loop
    loop=$(losetup --find --show --sector-size 4096 "$disk")
    sgdisk -n 1:0:0 "$loop"
    losetup -d "$loop"
}

# no_gpt: both copies of a GPT are gone, what is in the partitions is not.
no_gpt() {
    zero 0 $((34 * 512))
    zero $(($(blockdev --getsize64 "$disk") - 33 * 512)) $((33 * 512))
}

# named NAME: a GPT with one partition of that name. (sgdisk splits at colons.)
named() {
    echo "name=\"$1\"" | sfdisk -q --label gpt "$disk"
}

# uncommit: a claim of this agent as it was before it was committed.
uncommit() {
    udevadm settle --timeout=600
    # From the disk: udevd was told not to look again when the claim was committed.
    local name
    name=$(sfdisk --part-label "$disk" 1)
    sfdisk -q --part-label "$disk" 1 "lh-pending:${name#longhorn:}"
}
