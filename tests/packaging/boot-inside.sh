#!/bin/sh
# Tests the unit under systemd, in a virtual machine that boot.sh has booted.
set -eu
. /tests/lib.sh
settings=/etc/hm-agent/hm-agent.toml
export DEBIAN_FRONTEND=noninteractive
show() { systemctl show -p "$1" hm-agent.service | cut -d= -f2-; }
is() { [ "$(show "$1")" = "$2" ] || fail "$1 is $(show "$1"), not $2"; }
install_deb() { dpkg --force-confold -i "$1" >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log >&2; fail "dpkg -i $1"; }; }
pid_differs() { [ "$(show MainPID)" != "$1" ] && [ "$(show ActiveState)" = active ] && responds; }
wait_new_pid() { # PID SECONDS: waits for another main process
    for _ in $(seq "$2"); do
        ! pid_differs "$1" >/dev/null 2>&1 || return 0
        sleep 1
    done
    fail "process $1 was not replaced within $2 s: $(systemctl status hm-agent | head -n 5)"
}

say "$(systemctl --version | head -n 1), $(uname -r)"
say "syntax of the unit"
install_deb /pkg/old.deb
systemd-analyze --man=no verify /usr/lib/systemd/system/hm-agent.service >/tmp/output 2>&1 || fail "$(cat /tmp/output)"
[ ! -s /tmp/output ] || fail "$(cat /tmp/output)"
systemd-analyze security hm-agent.service --no-pager | tail -n 1

say "install: running, and enabled at boot"
is ActiveState active
is SubState running
is Type notify
[ "$(show NRestarts)" -eq 0 ] || fail "it was restarted"
[ "$(systemctl is-enabled hm-agent)" = enabled ] || fail "it is not enabled"
responds >/dev/null || fail "it does not respond"
main=$(show MainPID)
[ "$(stat -c %U "/proc/$main")" = hm-agent ] || fail "it runs as $(stat -c %U "/proc/$main")"
[ "$(stat -c '%U %a' /var/lib/hm-agent)" = "hm-agent 750" ] || fail "state directory"
journalctl -u hm-agent -o cat | grep 'listening on' || fail "no lines in the journal"
[ "$(journalctl -u hm-agent -p info -o json | grep -c 'listening on')" -ge 2 ] || fail "no level in the journal"

say "the sandbox allows GPUs, other processes and filesystems, and nothing else"
cat >/opt/inspect.sh <<'INSPECT'
#!/bin/sh
# The agent runs this in its sandbox for every state change.
[ "$HB_STATE" = WARNING ] || exit 0
exec >/var/lib/hm-agent/report 2>&1
for device in /dev/nvidiactl /dev/nvidia0; do
    (: <"$device") 2>&1 | grep -q 'No such device' && echo "$device: accessible, no driver"
done
[ -r /proc/1/comm ] && [ "$(cat /proc/1/comm)" = systemd ] && echo "process 1 is visible"
[ -d "/proc/$(cat /run/other-process)" ] && echo "another user's process is visible"
[ -z "${NOTIFY_SOCKET:-}" ] && echo "no NOTIFY_SOCKET"
for directory in /usr /etc /home /root /var/log; do
    (: >"$directory/x") 2>/dev/null || echo "$directory is read-only"
done
(: >/var/lib/hm-agent/x) && echo "the state directory is writable"
# The bounding set has CAP_SYSLOG for the agent, which keeps it from programs that it runs.
grep -q '^NoNewPrivs:.1$' /proc/self/status && grep -q '^CapBnd:.0000000400000000$' /proc/self/status &&
    [ "$(grep -c '^Cap\(Prm\|Eff\|Amb\):.0000000000000000$' /proc/self/status)" -eq 3 ] && echo "no privileges"
grep -q '^Seccomp:.2$' /proc/self/status && echo "system calls are filtered"
stat -f /home >/dev/null && echo "statvfs of /home works"
date -s '2001-01-01' >/dev/null 2>&1 || echo "the clock is protected"
unshare --user true 2>/dev/null || echo "no namespaces"
ls /tmp/secret >/dev/null 2>&1 || echo "/tmp is private"
echo done
INSPECT
chmod 755 /opt/inspect.sh
mknod -m 666 /dev/nvidiactl c 195 255
mknod -m 666 /dev/nvidia0 c 195 0
echo >/tmp/secret
sleep 1000 &
echo $! >/run/other-process
cp "$settings" "$settings.original"
sed -e 's,^\[gpu\]$,[gpu]\nsource = "nvml"\nnvml_library = "/opt/fake/libnvidia-ml.so.1",' \
    -e 's,^\[heartbeat\]$,[heartbeat]\non_overdue = ["/opt/inspect.sh"],' "$settings.original" >"$settings"
systemctl restart hm-agent
curl -sf 'http://127.0.0.1:8888/hb_ping?1&appid=late' >/dev/null
reported() { grep -q done /var/lib/hm-agent/report; }
soon reported
cat >/tmp/expected <<'EXPECTED'
/dev/nvidiactl: accessible, no driver
/dev/nvidia0: accessible, no driver
process 1 is visible
another user's process is visible
no NOTIFY_SOCKET
/usr is read-only
/etc is read-only
/home is read-only
/root is read-only
/var/log is read-only
the state directory is writable
no privileges
system calls are filtered
statvfs of /home works
the clock is protected
no namespaces
/tmp is private
done
EXPECTED
diff /tmp/expected /var/lib/hm-agent/report || fail "unexpected sandbox"

say "the GPU probe runs from memory, with a driver's library"
has_gpu() { curl -sf http://127.0.0.1:33931/snapshot | grep -q '"name":"NVIDIA H100 80GB HBM3"'; }
soon has_gpu
case $(readlink "/proc/$(pgrep -f '^gpu-probe')/exe") in /memfd:*) ;; *) fail "it does not run from memory" ;; esac

say "systemd restarts a killed agent, also after restarts by hand"
for restart in 1 2 3 4 5 6 7; do systemctl restart hm-agent; done
main=$(show MainPID)
kill -KILL "$main"
wait_new_pid "$main" 10

say "the watchdog restarts a hung agent"
main=$(show MainPID)
[ "$(show WatchdogUSec)" = 30s ] || fail "watchdog: $(show WatchdogUSec)"
kill -STOP "$main"
wait_new_pid "$main" 150
journalctl -u hm-agent -o cat | grep -i 'watchdog timeout' || fail "not restarted by the watchdog"

say "reload; invalid settings change nothing"
main=$(show MainPID)
echo 'interval = 1' | cat - "$settings.original" >"$settings"
systemctl reload hm-agent
echo 'interval = "often"' | cat - "$settings.original" >"$settings"
systemctl reload hm-agent && fail "the reload succeeded" || :
install -m 0600 /dev/stdin /etc/hm-agent/token <<'TOKEN'
secret
TOKEN
sed 's,^\[usage\]$,[usage]\ntoken_file = "/etc/hm-agent/token",' "$settings.original" >"$settings"
systemctl reload hm-agent && fail "the reload succeeded with a token that the agent cannot read" || :
hm-agent check >/tmp/output 2>&1 && fail "check succeeded with a token that the agent cannot read" || :
grep -q 'token: .*permission denied.*user hm-agent' /tmp/output || fail "$(cat /tmp/output)"
rm /etc/hm-agent/token
echo 'interval = "often"' | cat - "$settings.original" >"$settings"
responds >/dev/null || fail "it does not respond"
is MainPID "$main"
journalctl -u hm-agent -o cat | grep 'interval' || fail "no error about the invalid settings"

say "invalid settings at startup: failed without retries"
systemctl restart hm-agent && fail "it started" || :
sleep 8
is ActiveState failed
is ExecMainStatus 2
cp "$settings.original" "$settings"
systemctl restart hm-agent
main=$(show MainPID)

say "upgrade restarts; a disabled or masked unit stays so"
install_deb /pkg/new.deb
[ "$(show MainPID)" != "$main" ] || fail "the old one is still running"
is ActiveState active
responds >/dev/null || fail "it does not respond"
systemctl disable --now hm-agent 2>/dev/null
install_deb /pkg/new.deb
[ "$(systemctl is-enabled hm-agent)" = disabled ] || fail "it was enabled"
systemctl mask hm-agent 2>/dev/null
install_deb /pkg/new.deb
[ "$(systemctl is-enabled hm-agent)" = masked ] || fail "it was unmasked"
systemctl unmask hm-agent 2>/dev/null
systemctl enable --now hm-agent 2>/dev/null

say "core.run_as with the drop-in of hm-agent(8)"
mkdir -p /etc/systemd/system/hm-agent.service.d
zcat /usr/share/man/man8/hm-agent.8.gz | sed -n '/^\[Service\]$/,/^\.Ed$/p' | grep -v '^\.Ed' \
    >/etc/systemd/system/hm-agent.service.d/run-as.conf
sed 's,^\[core\]$,[core]\nurl = "ws://127.0.0.1:9/"\ncommands = "any"\nrun_as = "nobody",' "$settings.original" >"$settings"
systemctl daemon-reload
systemctl restart hm-agent
is ActiveState active
responds >/dev/null || fail "it does not respond"
rm -r /etc/systemd/system/hm-agent.service.d
cp "$settings.original" "$settings"
systemctl daemon-reload
systemctl restart hm-agent
responds >/dev/null || fail "it does not respond"
[ "$(stat -c '%U' /var/lib/hm-agent)" = hm-agent ] || fail "state directory"

say "stops within two seconds"
before=$(date +%s%N)
systemctl stop hm-agent
[ $(($(date +%s%N) - before)) -lt 2500000000 ] || fail "it took longer"
is Result success
systemctl start hm-agent

say "read-only state of filesystems is the one outside of the sandbox"
curl -sf http://127.0.0.1:33931/metrics | grep '^node_filesystem_readonly' >/tmp/output
cat /tmp/output
grep -q 'mountpoint="/"} 0$' /tmp/output || fail "/ is reported read-only"

say "remove, install again, purge"
rm "$settings.original"
dpkg -r hm-agent >/dev/null 2>&1
none_runs || fail "it is still running"
install_deb /pkg/new.deb
is ActiveState active
responds >/dev/null || fail "it does not respond"
dpkg -r hm-agent >/dev/null 2>&1
dpkg -P hm-agent >/dev/null 2>&1
[ ! -e /var/lib/hm-agent ] && [ ! -e /etc/hm-agent ] || fail "state or settings were not removed"
systemctl is-enabled hm-agent 2>/dev/null && fail "still enabled" || :
echo "PASSED"
