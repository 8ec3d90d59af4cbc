#!/bin/sh
# Installs the tarball in a root with OpenRC.
set -eu
. /tests/lib.sh
settings=/etc/hm-agent/hm-agent.toml
pidfile=/run/hm-agent/hm-agent.pid
mkdir -p /run/openrc
touch /run/openrc/softlevel # makes OpenRC believe that it has booted this root

say "install"
/pkg/hm-agent/install.sh >/tmp/output 2>&1 || { cat /tmp/output >&2; fail "install.sh"; }
responds >/dev/null || fail "it does not respond"
[ -e /etc/runlevels/default/hm-agent ] || fail "not enabled at boot"
code 0 rc-service hm-agent status
before=$(cat "$pidfile")
[ "$(stat -c %U "/proc/$before")" = hm-agent ] || fail "it runs as root"
code 0 rc-service hm-agent restart
[ "$(cat "$pidfile")" != "$before" ] || fail "it was not restarted"
code 0 rc-service hm-agent reload

say "a crashed agent is restarted"
kill -KILL "$(agents | tail -n 1)"
soon responds

say "invalid settings"
cp "$settings" "$settings.original"
echo 'interval = "often"' >"$settings"
code 2 rc-service hm-agent reload
code 1 rc-service hm-agent restart
responds >/dev/null || fail "invalid settings stopped it"
cp "$settings.original" "$settings"

say "uninstall"
code 0 rc-service hm-agent stop
none_runs || fail "it is still running"
code 0 rc-service hm-agent start
sh /usr/local/share/hm-agent/uninstall.sh >/tmp/output 2>&1 || { cat /tmp/output >&2; fail "uninstall.sh"; }
none_runs || fail "it is still running"
[ ! -e /etc/init.d/hm-agent ] && [ ! -L /etc/runlevels/default/hm-agent ] || fail "the init script was not removed"
