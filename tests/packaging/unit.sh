#!/usr/bin/env bash
# Checks the unit: syntax, exposure level, and that it denies every system call outside of systemd's @system-service.
# unit.sh DEB
set -euo pipefail
. "$(dirname "$0")/lib.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
dpkg-deb -x "$1" "$work"
unit=usr/lib/systemd/system/hm-agent.service
# The program is not installed on this machine.
sed "s,/usr/bin/hm-agent,$work/usr/bin/hm-agent," "$work/$unit" >"$work/hm-agent.service"
output=$(systemd-analyze --man=no verify "$work/hm-agent.service" 2>&1) && [ -z "$output" ] || fail "$output"
score=$(systemd-analyze security --offline=yes "$work/$unit" --no-pager | sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p')
say "exposure $score"
# 2.8: CAP_SYSLOG and no ProtectKernelLogs=, for the kernel log; clock_adjtime(2), for the state of the clock.
[ "$(printf '%s\n' 2.8 "$score" | sort -n | tail -n 1)" = 2.8 ] || fail "above 2.8"
python3 - "$work/$unit" <<'PYTHON'
import re, subprocess, sys
groups, name = {}, None
for line in subprocess.run(["systemd-analyze", "syscall-filter"], stdout=subprocess.PIPE, text=True).stdout.splitlines():
    if line.startswith("@"):
        name = line.strip()
        groups[name] = []
    elif line.strip() and not line.strip().startswith("#"):
        groups[name].append(line.strip())
def of(name):
    return set().union(*(of(one) if one.startswith("@") else {one} for one in groups[name])) if name in groups else set()
denied = set()
for line in open(sys.argv[1]):
    if line.startswith("SystemCallFilter=~"):
        for word in line.strip().removeprefix("SystemCallFilter=~").split():
            denied |= of(word) if word.startswith("@") else {word}
    elif line.startswith("SystemCallFilter="):
        denied -= set(line.strip().removeprefix("SystemCallFilter=").split())
# Of other architectures, of no current kernel, or harmless: waiting, reading, sandboxing oneself, and what demands a capability.
ALLOWED = re.compile("^(arc_|osf_|or1k_|s390_|spu_|sys(call|mips)$|old|exec_with|execv$|atomic_|cachectl|dipc|get(dtable|page|xgid|"
                    "xpid|xuid|domainname|hostname)|kern_features|memory_ordering|multiplexer|perfctr|riscv_|sched_[gs]et_aff|"
                    "sethae|setpgrp|timerfd$|utrap|futex_|landlock_|seccomp$|mincore|map_shadow|cachestat|mseal|uretprobe|lsm_|"
                    "setxattrat|getxattrat|listxattrat|removexattrat|statmount|listmount|(clock_)?adjtime)")
left = sorted(call for call in of("@known") - of("@system-service") - denied if not ALLOWED.search(call))
print("   allowed beyond @system-service:", *left or ["nothing"])
sys.exit(bool(left))
PYTHON
