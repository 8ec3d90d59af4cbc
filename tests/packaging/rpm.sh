#!/usr/bin/env bash
# Installs, upgrades and erases the .rpm in a clean Debian root. A fake systemctl records its calls.
# rpm.sh ROOT OLD NEW
set -euo pipefail
root=$1 old=$2 new=$3
. "$(dirname "$0")/lib.sh"
settings="$root/etc/hm-agent/hm-agent.toml"
calls="$root/systemctl.log"
run_rpm() { rpm --root "$root" --nodeps --nosignature "$@" || fail "rpm $*"; }
called() { # compares systemctl's calls with the input
    diff - "$calls" || fail "other calls of systemctl"
    : >"$calls"
}

printf '#!/bin/sh\necho "$*" >>/systemctl.log\n' >"$root/usr/bin/systemctl"
chmod 755 "$root/usr/bin/systemctl"
mkdir -p "$root/run/systemd/system"
: >"$calls"

say "install"
run_rpm -i "$old"
called <<<'daemon-reload
--no-reload preset hm-agent.service'
uid=$(chroot "$root" id -u hm-agent)
[ "$(chroot "$root" stat -c '%U %G %a' /var/lib/hm-agent)" = "hm-agent hm-agent 750" ] || fail "state directory"
chroot "$root" hm-agent check >/dev/null || fail "hm-agent check"
: >"$calls" # check looks up the user of the service

say "upgrade: keeps state, settings and user, and restarts a running service"
echo '# mine' >>"$settings"
echo kept >"$root/var/lib/hm-agent/mark"
run_rpm -U "$new"
called <<<'daemon-reload
daemon-reload
try-restart hm-agent.service'
tail -n 1 "$settings" | grep -q '^# mine' || fail "the settings were replaced"
[ "$(chroot "$root" stat -c '%U %G %a' /etc/hm-agent/hm-agent.toml)" = "root hm-agent 640" ] || fail "other users can read the settings"
[ -e "$settings.rpmnew" ] || fail "the new settings file was not installed as .rpmnew"
[ "$(cat "$root/var/lib/hm-agent/mark")" = kept ] || fail "state"
[ "$(chroot "$root" id -u hm-agent)" = "$uid" ] || fail "user"
changed=$(rpm --root "$root" -V --nodeps hm-agent | grep -v ' c /etc/hm-agent/hm-agent.toml$') && fail "$changed"

say "erase"
run_rpm -e hm-agent
called <<<'--no-reload disable hm-agent.service
stop hm-agent.service
daemon-reload'
[ ! -e "$root/usr/bin/hm-agent" ] && [ -e "$settings.rpmsave" ] && [ -e "$root/var/lib/hm-agent/mark" ] ||
    fail "wrong files were removed"
[ "$(chroot "$root" id -u hm-agent)" = "$uid" ] || fail "the user was removed"
