#!/bin/sh
# Runs install.sh and uninstall.sh in a clean root; /pkg/hm-agent is the unpacked tarball.
# tarball.sh sysv|none
set -eu
. /tests/lib.sh
init=$1
settings=/etc/hm-agent/hm-agent.toml
# Old Debian releases have the directory, new ones do not.
if [ "$init" = none ]; then rm -rf /etc/init.d; else mkdir -p /etc/init.d; fi

say "install into DESTDIR as user daemon"
mkdir /tmp/staged
chmod 777 /tmp/staged
su -s /bin/sh -c 'cp -R /pkg/hm-agent /tmp/staged/unpacked && cd /tmp/staged/unpacked &&
    DESTDIR=/tmp/staged/root ./install.sh --prefix /opt/hm --init systemd' daemon >/dev/null || fail "install.sh"
grep -q '^ExecStart=/opt/hm/bin/hm-agent run' /tmp/staged/root/etc/systemd/system/hm-agent.service || fail "unit"
DESTDIR=/tmp/staged/root sh /tmp/staged/root/opt/hm/share/hm-agent/uninstall.sh --purge
[ -z "$(find /tmp/staged/root -type f)" ] || fail "left: $(find /tmp/staged/root -type f)"
rm -rf /tmp/staged

say "install"
/pkg/hm-agent/install.sh >/tmp/output 2>&1 || { cat /tmp/output >&2; fail "install.sh"; }
hm-agent check >/dev/null || fail "hm-agent check"
private() { [ "$(stat -c '%U %G %a' "$settings")" = "root hm-agent 640" ] || fail "other users can read the settings"; }
private
if [ "$init" = none ]; then
    grep -q 'rc.local' /tmp/output || fail "install.sh does not print how to start the agent"
    line=$(grep 'su -s' /tmp/output)
    sh -c "$line" || fail "$line"
fi
responds >/dev/null || fail "it does not respond"
before=$(agents)

say "upgrade"
echo '# mine' >>"$settings"
chmod 644 "$settings" # as earlier versions left it
/pkg/hm-agent/install.sh >/dev/null 2>&1 || fail "install.sh"
private
tail -n 1 "$settings" | grep -q '^# mine' || fail "the settings were replaced"
responds >/dev/null || fail "it does not respond"
[ "$init" = none ] || [ "$(agents)" != "$before" ] || fail "it was not restarted"

say "uninstall"
[ "$init" != none ] || { kill $before; soon none_runs; }
sh /usr/local/share/hm-agent/uninstall.sh >/dev/null 2>&1 || fail "uninstall.sh"
none_runs || fail "it is still running: $(agents)"
[ -e "$settings" ] && [ -d /var/lib/hm-agent ] || fail "settings or state are gone"
left=$(find / -xdev \( -path /pkg -o -path /tests -o -path /proc -o -path /etc/hm-agent -o -path /var \) -prune \
    -o -name '*hm-agent*' -print)
[ -z "$left" ] || fail "left: $left"
sh /pkg/hm-agent/uninstall.sh --prefix /usr/local --purge >/dev/null 2>&1 || fail "uninstall.sh --purge"
[ ! -e /etc/hm-agent ] && [ ! -e /var/lib/hm-agent ] || fail "--purge leaves files"
