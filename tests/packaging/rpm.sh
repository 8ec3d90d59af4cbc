#!/usr/bin/env bash
# The .rpm in a root that rpm knows nothing of yet: installed, upgraded from the previous version, erased. The root is
# Debian's; a systemctl that writes down how it is called stands for systemd.
# rpm.sh ROOT OLD NEW
set -euo pipefail
root=$1 old=$2 new=$3
. "$(dirname "$0")/lib.sh"
settings="$root/etc/hm-agent/hm-agent.toml"
calls="$root/systemctl.log"
run_rpm() { rpm --root "$root" --nodeps --nosignature "$@" || fail "rpm $*"; }
called() { # what systemctl was asked for
    diff - "$calls" || fail "systemctl was asked for something else"
    : >"$calls"
}

printf '#!/bin/sh\necho "$*" >>/systemctl.log\n' >"$root/usr/bin/systemctl"
chmod 755 "$root/usr/bin/systemctl"
mkdir -p "$root/run/systemd/system"
: >"$calls"

say "installed"
run_rpm -i "$old"
called <<<'daemon-reload
--no-reload preset hm-agent.service'
uid=$(chroot "$root" id -u hm-agent)
[ "$(chroot "$root" stat -c '%U %G %a' /var/lib/hm-agent)" = "hm-agent hm-agent 750" ] || fail "state directory"
chroot "$root" hm-agent check >/dev/null || fail "hm-agent check"

say "upgraded: state, settings and user stay, and the service is restarted if it runs"
echo '# mine' >>"$settings"
echo kept >"$root/var/lib/hm-agent/mark"
run_rpm -U "$new"
called <<<'daemon-reload
daemon-reload
try-restart hm-agent.service'
tail -n 1 "$settings" | grep -q '^# mine' || fail "the settings were replaced"
[ -e "$settings.rpmnew" ] || fail "the new settings file is not there to be compared"
[ "$(cat "$root/var/lib/hm-agent/mark")" = kept ] || fail "state"
[ "$(chroot "$root" id -u hm-agent)" = "$uid" ] || fail "user"
changed=$(rpm --root "$root" -V --nodeps hm-agent | grep -v ' c /etc/hm-agent/hm-agent.toml$') && fail "$changed"

say "erased"
run_rpm -e hm-agent
called <<<'--no-reload disable hm-agent.service
stop hm-agent.service
daemon-reload'
[ ! -e "$root/usr/bin/hm-agent" ] && [ -e "$settings.rpmsave" ] && [ -e "$root/var/lib/hm-agent/mark" ] ||
    fail "too much or too little is gone"
[ "$(chroot "$root" id -u hm-agent)" = "$uid" ] || fail "the user is gone"
