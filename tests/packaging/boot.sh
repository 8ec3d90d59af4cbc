#!/usr/bin/env bash
# Boots Debian with systemd and the packages under QEMU and runs boot-inside.sh there.
# boot.sh ROOT PKG: a clean root (modified), the directory of old.deb and new.deb
set -euo pipefail
root=$1 pkg=$2
here=$(cd "$(dirname "$0")" && pwd)

cp /etc/resolv.conf "$root/etc/resolv.conf"
mount -t proc proc "$root/proc"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
chroot "$root" apt-get update -q >/dev/null
chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    systemd systemd-sysv udev linux-image-cloud-amd64 initramfs-tools procps curl >/dev/null
rm "$root/usr/sbin/policy-rc.d"
umount "$root/proc"
rm -rf "$root/tests" "$root/pkg"
cp -R "$here" "$root/tests"
cp -R "$pkg" "$root/pkg"
mkdir -p "$root/opt/fake"
# Built with packaging/build-static's Zig, for any root's glibc.
zig=(python3 -m ziglang)
own="$here/../../target/zig-venv/bin/python"
if command -v zig >/dev/null; then zig=(zig); elif [ -x "$own" ]; then zig=("$own" -m ziglang); fi
"${zig[@]}" cc -target x86_64-linux-gnu.2.17 -shared -fPIC -O1 -pthread -Wl,-z,nodelete -Wl,--no-gc-sections \
    -o "$root/opt/fake/libnvidia-ml.so.1" "$here"/../fake-nvml/*.c
cat >"$root/etc/systemd/system/test.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'sh /tests/boot-inside.sh >/dev/ttyS0 2>&1'
ExecStopPost=/bin/systemctl poweroff --force
[Install]
WantedBy=multi-user.target
UNIT
ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
ln -sf ../test.service "$root/etc/systemd/system/multi-user.target.wants/test.service"
echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
image="$root.ext4"
truncate -s 2G "$image"
mkfs.ext4 -q -F -d "$root" "$image"
kernel=("$root"/boot/vmlinuz-*)
initrd=("$root"/boot/initrd.img-*)
# Emulated: in a virtual machine /dev/kvm may exist and not work.
# Without cmpxchg16b: QEMU 7.2 crashes on it with current kernels.
timeout 1500 qemu-system-x86_64 -machine accel=tcg -cpu max,-cx16 -m 1024 -smp 2 -nographic -no-reboot -net none \
    -drive "file=$image,format=raw,if=virtio" -kernel "${kernel[0]}" -initrd "${initrd[0]}" \
    -append 'root=/dev/vda rw console=ttyS0 loglevel=4 panic=-1 systemd.show_status=0' </dev/null | tee "$root.log"
rm "$image"
grep -q '^PASSED' "$root.log"
