#!/bin/sh
# The tarball under OpenRC, in a root that has it.
set -eu
. /tests/lib.sh
settings=/etc/hm-agent/hm-agent.toml
pidfile=/run/hm-agent/hm-agent.pid
mkdir -p /run/openrc
touch /run/openrc/softlevel # as if OpenRC had started this root

say "installed"
/pkg/hm-agent/install.sh >/tmp/said 2>&1 || { cat /tmp/said >&2; fail "install.sh"; }
answers >/dev/null || fail "it does not answer"
[ -e /etc/runlevels/default/hm-agent ] || fail "it is not started at boot"
code 0 rc-service hm-agent status
before=$(cat "$pidfile")
[ "$(stat -c %U "/proc/$before")" = hm-agent ] || fail "it runs as root"
code 0 rc-service hm-agent restart
[ "$(cat "$pidfile")" != "$before" ] || fail "it was not restarted"
code 0 rc-service hm-agent reload

say "a crash: it is started again"
kill -KILL "$(agents | tail -n 1)"
soon answers

say "wrong settings"
cp "$settings" "$settings.original"
echo 'interval = "often"' >"$settings"
code 2 rc-service hm-agent reload
code 1 rc-service hm-agent restart
answers >/dev/null || fail "wrong settings ended it"
cp "$settings.original" "$settings"

say "uninstalled"
code 0 rc-service hm-agent stop
none_runs || fail "it still runs"
code 0 rc-service hm-agent start
sh /usr/local/share/hm-agent/uninstall.sh >/tmp/said 2>&1 || { cat /tmp/said >&2; fail "uninstall.sh"; }
none_runs || fail "it still runs"
[ ! -e /etc/init.d/hm-agent ] && [ ! -L /etc/runlevels/default/hm-agent ] || fail "its script is left"
