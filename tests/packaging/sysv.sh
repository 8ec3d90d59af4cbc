#!/bin/sh
# Runs the init script in a clean root, under the given shell, and checks LSB's exit codes.
# sysv.sh SHELL...
set -eu
. /tests/lib.sh
script="$* /etc/init.d/hm-agent"
pidfile=/var/run/hm-agent/hm-agent.pid
settings=/etc/hm-agent/hm-agent.toml
log=/tmp/syslog

# A syslog daemon, in the language that every Debian root has.
perl -MSocket -e '$| = 1; unlink "/dev/log"; socket(S, AF_UNIX, SOCK_DGRAM, 0) or die; bind(S, sockaddr_un("/dev/log")) or die;
    chmod 0666, "/dev/log"; print "$_\n" while recv(S, $_, 9999, 0), length' >"$log" &
syslog=$!
trap 'kill $syslog' EXIT
soon [ -S /dev/log ]

code 3 $script status
code 0 $script start
responds >/dev/null || fail "started, but it does not respond"
supervisor=$(cat "$pidfile")
owner=$(stat -c %U "/proc/$supervisor")
[ "$owner" = hm-agent ] || fail "it runs as $owner"
code 0 $script status
[ "$(agents | wc -l)" -eq 2 ] || fail "expected one agent and one supervisor: $(agents)"

say "a double start changes nothing"
code 0 $script start
[ "$(cat "$pidfile")" = "$supervisor" ] && [ "$(agents | wc -l)" -eq 2 ] || fail "a second one was started"

say "a crashed agent is restarted"
agent=$(agents | grep -v "^$supervisor\$")
kill -KILL "$agent"
soon responds
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
responds >/dev/null || fail "invalid settings stopped it"
cp "$settings.original" "$settings"
code 0 $script force-reload

say "restart"
code 0 $script restart
[ "$(cat "$pidfile")" != "$supervisor" ] || fail "the same supervisor"
responds >/dev/null || fail "it does not respond"
supervisor=$(cat "$pidfile")
code 0 $script try-restart
[ "$(cat "$pidfile")" != "$supervisor" ] || fail "the same supervisor"

say "stop"
code 0 $script stop
none_runs || fail "processes left: $(agents)"
[ ! -e "$pidfile" ] || fail "the pid file was not removed"
code 0 $script stop
code 3 $script status
code 7 $script reload
code 0 $script try-restart
code 0 $script condrestart
none_runs || fail "try-restart started a stopped agent"

say "a killed supervisor leaves a stale pid file and no agent"
code 0 $script start
kill -KILL "$(cat "$pidfile")"
soon none_runs
code 1 $script status
code 0 $script start
responds >/dev/null || fail "a stale pid file prevents starting"
code 0 $script stop

say "a pid file with the PID of another process"
sleep 1000 &
echo $! >"$pidfile"
code 1 $script status
code 7 $script reload
code 0 $script stop
kill -0 $! || fail "the other process was killed"
echo $! >"$pidfile"
code 0 $script start
responds >/dev/null || fail "it does not start"
kill $!
code 0 $script stop

say "a pid file that cannot be read does not block"
run=/var/run/hm-agent
for make in mkfifo "ln -s /dev/zero" mkdir; do
    rm -rf "$pidfile"
    $make "$pidfile"
    code 1 $script status
    code 7 $script reload
done
rmdir "$pidfile"
mkfifo "$pidfile"
chown hm-agent: "$run"
code 0 $script start
[ "$(stat -c '%U %a' "$run")" = "root 755" ] || fail "the agent's user can replace the pid file"
[ "$(stat -c '%U %a' "$pidfile")" = "hm-agent 600" ] || fail "other users can lock the pid file"
responds >/dev/null || fail "it does not start"
code 0 $script stop
[ ! -e "$pidfile" ] || fail "the pid file was not removed"

say "errors"
code 2 $script dance
code 2 $script
code 4 su -s /bin/sh -c "$script start" daemon
echo 'interval = "often"' >"$settings"
code 6 $script start
cp "$settings.original" "$settings"
mv /usr/bin/hm-agent /usr/bin/hm-agent.away
code 5 $script start
code 0 $script stop
mv /usr/bin/hm-agent.away /usr/bin/hm-agent
none_runs || fail "still running: $(agents)"
