#!/bin/sh
# Installs, upgrades, removes and purges the .deb in a clean root without systemd.
set -eu
. /tests/lib.sh
export DEBIAN_FRONTEND=noninteractive
settings=/etc/hm-agent/hm-agent.toml
# Both the previous version's settings file and the administrator's differ.
install() { dpkg --force-confold -i "$1" >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log >&2; fail "dpkg -i $1"; }; }
version() { dpkg-query -W -f '${Version}' hm-agent; }

say "policy-rc.d denies starting"
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
install /pkg/old.deb
none_runs || fail "it was started"
dpkg -P hm-agent >/dev/null 2>&1

say "install"
# Without an init system, services start only if a policy allows it.
printf '#!/bin/sh\nexit 0\n' >/usr/sbin/policy-rc.d
install /pkg/old.deb
responds >/dev/null || fail "it does not respond"
[ "$(stat -c '%U %G %a' /var/lib/hm-agent)" = "hm-agent hm-agent 750" ] || fail "state directory"
[ "$(stat -c '%U %G %a' "$settings")" = "root hm-agent 640" ] || fail "settings file"
uid=$(id -u hm-agent)
getent passwd hm-agent | grep -q ':/var/lib/hm-agent:/usr/sbin/nologin$' || fail "$(getent passwd hm-agent)"
hm-agent check >/dev/null || fail "hm-agent check"
ls /etc/rc2.d/S*hm-agent >/dev/null || fail "not enabled at boot"
before=$(cat /var/run/hm-agent/hm-agent.pid)

say "upgrade: keeps state, settings and user, and runs the new version"
echo '# mine' >>"$settings"
echo kept >/var/lib/hm-agent/mark
install /pkg/new.deb
[ "$(version)" != "$(dpkg-deb -f /pkg/old.deb Version)" ] || fail "$(version)"
tail -n 1 "$settings" | grep -q '^# mine' || fail "the settings were replaced"
[ "$(cat /var/lib/hm-agent/mark)" = kept ] && [ "$(id -u hm-agent)" = "$uid" ] || fail "state or user"
responds >/dev/null || fail "it does not respond"
after=$(cat /var/run/hm-agent/hm-agent.pid)
[ "$after" != "$before" ] && [ ! -e "/proc/$before/exe" ] || fail "the old one is still running"
case $(readlink "/proc/$after/exe") in *deleted*) fail "the old program is running" ;; esac

say "invalid settings do not break dpkg"
cp "$settings" "$settings.good"
echo 'interval = "often"' >"$settings"
install /pkg/new.deb
grep -q 'interval' /tmp/dpkg.log || fail "no error about them: $(cat /tmp/dpkg.log)"
mv "$settings.good" "$settings"
install /pkg/new.deb
responds >/dev/null || fail "it does not respond"

say "remove"
dpkg -r hm-agent >/dev/null 2>&1 || fail "dpkg -r"
none_runs || fail "it is still running: $(agents)"
[ ! -e /usr/bin/hm-agent ] && [ -e "$settings" ] && [ -e /var/lib/hm-agent/mark ] || fail "wrong files were removed"
code 0 /etc/init.d/hm-agent stop
install /pkg/new.deb
tail -n 1 "$settings" | grep -q '^# mine' || fail "the settings were removed"
responds >/dev/null || fail "it does not respond"

say "purge"
dpkg -P hm-agent >/dev/null 2>&1 || fail "dpkg -P"
none_runs || fail "it is still running: $(agents)"
left=$(find / -xdev \( -path /pkg -o -path /tests -o -path /proc -o -path /var/lib/dpkg \) -prune -o -name '*hm-agent*' -print)
[ -z "$left" ] || fail "left: $left"
[ "$(id -u hm-agent)" = "$uid" ] || fail "the user was removed"
