#!/bin/sh
# The init script, for real, in a root of its own: as LSB says it, under the shell that is given.
# sysv.sh SHELL...
set -eu
. /tests/lib.sh
script="$* /etc/init.d/hm-agent"
pidfile=/var/run/hm-agent/hm-agent.pid
settings=/etc/hm-agent/hm-agent.toml
log=/var/log/hm-agent/hm-agent.log

code 3 $script status
code 0 $script start
answers >/dev/null || fail "it was started and does not answer"
supervisor=$(cat "$pidfile")
owner=$(stat -c %U "/proc/$supervisor")
[ "$owner" = hm-agent ] || fail "it runs as $owner"
code 0 $script status
[ "$(agents | wc -l)" -eq 2 ] || fail "not one agent and one supervisor: $(agents)"

say "a double start changes nothing"
code 0 $script start
[ "$(cat "$pidfile")" = "$supervisor" ] && [ "$(agents | wc -l)" -eq 2 ] || fail "there are two"

say "a crash: it is started again"
agent=$(agents | grep -v "^$supervisor\$")
kill -KILL "$agent"
soon answers
[ "$(agents | grep -v "^$supervisor\$")" != "$agent" ] || fail "the same process"
code 0 $script status

say "reload"
echo 'log_level = "debug"' | cat - "$settings.original" >"$settings"
code 0 $script reload
reloaded() { grep -q 'configuration reloaded' "$log"; }
soon reloaded
echo 'log_level = "loud"' | cat - "$settings.original" >"$settings"
code 6 $script reload
code 6 $script restart
answers >/dev/null || fail "wrong settings ended it"
cp "$settings.original" "$settings"
code 0 $script force-reload

say "restart"
code 0 $script restart
[ "$(cat "$pidfile")" != "$supervisor" ] || fail "the same supervisor"
answers >/dev/null || fail "it does not answer"
supervisor=$(cat "$pidfile")
code 0 $script try-restart
[ "$(cat "$pidfile")" != "$supervisor" ] || fail "the same supervisor"

say "stop"
code 0 $script stop
none_runs || fail "there are processes left: $(agents)"
[ ! -e "$pidfile" ] || fail "the pid file is left"
code 0 $script stop
code 3 $script status
code 7 $script reload
code 0 $script try-restart
code 0 $script condrestart
none_runs || fail "try-restart started what did not run"

say "a killed supervisor leaves a stale pid file, and no agent"
code 0 $script start
kill -KILL "$(cat "$pidfile")"
soon none_runs
code 1 $script status
code 0 $script start
answers >/dev/null || fail "a stale pid file keeps it from starting"
code 0 $script stop

say "a pid file that names somebody else"
sleep 1000 &
echo $! >"$pidfile"
code 1 $script status
code 7 $script reload
code 0 $script stop
kill -0 $! || fail "somebody else was ended"
echo $! >"$pidfile"
code 0 $script start
answers >/dev/null || fail "it does not start"
kill $!
code 0 $script stop

say "what is refused"
code 2 $script dance
code 2 $script
code 4 su -s /bin/sh -c "$script start" nobody
echo 'interval = "often"' >"$settings"
code 6 $script start
cp "$settings.original" "$settings"
mv /usr/bin/hm-agent /usr/bin/hm-agent.away
code 5 $script start
code 0 $script stop
mv /usr/bin/hm-agent.away /usr/bin/hm-agent
none_runs || fail "something runs: $(agents)"
