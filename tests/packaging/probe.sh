#!/usr/bin/env bash
# Runs the GPU probe with the glibc of a root: it must start and report that there is no driver.
# probe.sh ROOT PROBE
set -euo pipefail
root=$1
. "$(dirname "$0")/lib.sh"
cp "$2" "$root/gpu-probe"
# It replies to each line and exits at the end of its input.
reply=$({ echo; sleep 2; } | timeout 20 chroot "$root" /gpu-probe | head -n 1)
say "$(chroot "$root" ldd --version | head -n 1): $reply"
case $reply in *'"state":"no_driver"'*) ;; *) fail "reply: $reply" ;; esac
