#!/usr/bin/env bash
# The GPU probe with the glibc of a root: it starts, and says that there is no driver.
# probe.sh ROOT PROBE
set -euo pipefail
root=$1
. "$(dirname "$0")/lib.sh"
cp "$2" "$root/gpu-probe"
# It answers a line with a line, and ends with its input.
said=$({ echo; sleep 2; } | timeout 20 chroot "$root" /gpu-probe | head -n 1)
say "$(chroot "$root" ldd --version | head -n 1): $said"
case $said in *'"state":"no_driver"'*) ;; *) fail "it says: $said" ;; esac
