#!/bin/sh
# The unit under a systemd that was booted for it: see boot.sh. As root, in a machine of its own.
set -eu
. /tests/lib.sh
settings=/etc/hm-agent/hm-agent.toml
export DEBIAN_FRONTEND=noninteractive
show() { systemctl show -p "$1" hm-agent.service | cut -d= -f2-; }
is() { [ "$(show "$1")" = "$2" ] || fail "$1 is $(show "$1"), not $2"; }
install() { dpkg --force-confold -i "$1" >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log >&2; fail "dpkg -i $1"; }; }
pid_differs() { [ "$(show MainPID)" != "$1" ] && [ "$(show ActiveState)" = active ] && answers; }
another_pid() { # PID SECONDS: within so long, another one runs
    for _ in $(seq "$2"); do
        ! pid_differs "$1" >/dev/null 2>&1 || return 0
        sleep 1
    done
    fail "process $1 was not replaced within $2 s: $(systemctl status hm-agent | head -n 5)"
}

say "$(systemctl --version | head -n 1), $(uname -r)"
say "the unit is well-formed"
install /pkg/old.deb
systemd-analyze --man=no verify /usr/lib/systemd/system/hm-agent.service >/tmp/said 2>&1 || fail "$(cat /tmp/said)"
[ ! -s /tmp/said ] || fail "$(cat /tmp/said)"
systemd-analyze security hm-agent.service --no-pager | tail -n 1

say "installed: it runs, and is started at boot"
is ActiveState active
is SubState running
is Type notify
[ "$(show NRestarts)" -eq 0 ] || fail "it was restarted"
[ "$(systemctl is-enabled hm-agent)" = enabled ] || fail "it is not enabled"
answers >/dev/null || fail "it does not answer"
main=$(show MainPID)
[ "$(stat -c %U "/proc/$main")" = hm-agent ] || fail "it runs as $(stat -c %U "/proc/$main")"
[ "$(stat -c '%U %a' /var/lib/hm-agent)" = "hm-agent 750" ] || fail "state directory"
journalctl -u hm-agent -o cat | grep 'listening on' || fail "nothing in the journal"
[ "$(journalctl -u hm-agent -p info -o json | grep -c 'listening on')" -ge 2 ] || fail "the journal does not know the level"

say "what the sandbox lets through: GPUs, processes of others, file systems; and what not"
cat >/opt/look.sh <<'LOOK'
#!/bin/sh
# Started by the agent, in its sandbox, for every change of state.
[ "$HB_STATE" = WARNING ] || exit 0
exec >/var/lib/hm-agent/look 2>&1
for device in /dev/nvidiactl /dev/nvidia0; do
    (: <"$device") 2>&1 | grep -q 'No such device' && echo "$device: only the driver is missing"
done
[ -r /proc/1/comm ] && [ "$(cat /proc/1/comm)" = systemd ] && echo "process 1 is to be seen"
[ -d "/proc/$(cat /run/stranger)" ] && echo "a stranger's process is to be seen"
[ -z "${NOTIFY_SOCKET:-}" ] && echo "no NOTIFY_SOCKET"
for directory in /usr /etc /home /root /var/log; do
    (: >"$directory/x") 2>/dev/null || echo "$directory cannot be written"
done
(: >/var/lib/hm-agent/x) && echo "the state directory can be"
grep -q '^NoNewPrivs:.1$' /proc/self/status && grep -q '^CapBnd:.0000000000000000$' /proc/self/status && echo "no privileges"
grep -q '^Seccomp:.2$' /proc/self/status && echo "a filter of system calls"
stat -f /home >/dev/null && echo "how full /home is can be asked"
date -s '2001-01-01' >/dev/null 2>&1 || echo "the clock cannot be set"
unshare --user true 2>/dev/null || echo "no namespaces"
ls /tmp/secret >/dev/null 2>&1 || echo "/tmp is its own"
echo done
LOOK
chmod 755 /opt/look.sh
mknod -m 666 /dev/nvidiactl c 195 255
mknod -m 666 /dev/nvidia0 c 195 0
echo >/tmp/secret
sleep 1000 &
echo $! >/run/stranger
cp "$settings" "$settings.original"
sed -e 's,^\[gpu\]$,[gpu]\nsource = "nvml"\nnvml_library = "/opt/fake/libnvidia-ml.so.1",' \
    -e 's,^\[heartbeat\]$,[heartbeat]\non_overdue = ["/opt/look.sh"],' "$settings.original" >"$settings"
systemctl restart hm-agent
curl -sf 'http://127.0.0.1:8888/hb_ping?1&appid=late' >/dev/null
looked() { grep -q done /var/lib/hm-agent/look; }
soon looked
cat >/tmp/wanted <<'WANTED'
/dev/nvidiactl: only the driver is missing
/dev/nvidia0: only the driver is missing
process 1 is to be seen
a stranger's process is to be seen
no NOTIFY_SOCKET
/usr cannot be written
/etc cannot be written
/home cannot be written
/root cannot be written
/var/log cannot be written
the state directory can be
no privileges
a filter of system calls
how full /home is can be asked
the clock cannot be set
no namespaces
/tmp is its own
done
WANTED
diff /tmp/wanted /var/lib/hm-agent/look || fail "the sandbox"

say "the GPU probe runs from memory, with a driver's library"
has_gpu() { curl -sf http://127.0.0.1:33931/snapshot | grep -q '"name":"NVIDIA H100 80GB HBM3"'; }
soon has_gpu
case $(readlink "/proc/$(pgrep -f '^gpu-probe')/exe") in /memfd:*) ;; *) fail "from where?" ;; esac

say "killed: started again"
main=$(show MainPID)
kill -KILL "$main"
another_pid "$main" 10

say "stuck: the watchdog starts it again"
main=$(show MainPID)
[ "$(show WatchdogUSec)" = 30s ] || fail "watchdog: $(show WatchdogUSec)"
kill -STOP "$main"
another_pid "$main" 150
journalctl -u hm-agent -o cat | grep -i 'watchdog timeout' || fail "it was not the watchdog"

say "reload; wrong settings change nothing"
main=$(show MainPID)
echo 'interval = 1' | cat - "$settings.original" >"$settings"
systemctl reload hm-agent
echo 'interval = "often"' | cat - "$settings.original" >"$settings"
systemctl reload hm-agent || :
sleep 1
answers >/dev/null || fail "it does not answer"
is MainPID "$main"
journalctl -u hm-agent -o cat | grep 'interval' || fail "nothing is said about the wrong settings"

say "wrong settings at the start: failed, and not tried for ever"
systemctl restart hm-agent && fail "it started" || :
sleep 8
is ActiveState failed
is ExecMainStatus 2
cp "$settings.original" "$settings"
systemctl restart hm-agent
main=$(show MainPID)

say "upgraded: restarted; disabled and masked stay"
install /pkg/new.deb
[ "$(show MainPID)" != "$main" ] || fail "the old one still runs"
is ActiveState active
answers >/dev/null || fail "it does not answer"
systemctl disable --now hm-agent 2>/dev/null
install /pkg/new.deb
[ "$(systemctl is-enabled hm-agent)" = disabled ] || fail "it was enabled"
systemctl mask hm-agent 2>/dev/null
install /pkg/new.deb
[ "$(systemctl is-enabled hm-agent)" = masked ] || fail "it was unmasked"
systemctl unmask hm-agent 2>/dev/null
systemctl enable --now hm-agent 2>/dev/null

say "core.run_as: the drop-in of hm-agent(8)"
mkdir -p /etc/systemd/system/hm-agent.service.d
zcat /usr/share/man/man8/hm-agent.8.gz | sed -n '/^\[Service\]$/,/^\.Ed$/p' | grep -v '^\.Ed' \
    >/etc/systemd/system/hm-agent.service.d/run-as.conf
sed 's,^\[core\]$,[core]\nurl = "ws://127.0.0.1:9/"\ncommands = "any"\nrun_as = "nobody",' "$settings.original" >"$settings"
systemctl daemon-reload
systemctl restart hm-agent
is ActiveState active
answers >/dev/null || fail "it does not answer"
rm -r /etc/systemd/system/hm-agent.service.d
cp "$settings.original" "$settings"
systemctl daemon-reload
systemctl restart hm-agent
answers >/dev/null || fail "it does not answer"
[ "$(stat -c '%U' /var/lib/hm-agent)" = hm-agent ] || fail "state directory"

say "stopped within two seconds"
before=$(date +%s%N)
systemctl stop hm-agent
[ $(($(date +%s%N) - before)) -lt 2500000000 ] || fail "it took longer"
is Result success
systemctl start hm-agent

say "file systems are what they are outside of the sandbox"
curl -sf http://127.0.0.1:33931/metrics | grep '^node_filesystem_readonly' >/tmp/said
cat /tmp/said
grep -q 'mountpoint="/"} 0$' /tmp/said || fail "/ is read-only, it says"

say "removed, installed again, purged"
rm "$settings.original"
dpkg -r hm-agent >/dev/null 2>&1
none_runs || fail "it still runs"
install /pkg/new.deb
is ActiveState active
answers >/dev/null || fail "it does not answer"
dpkg -r hm-agent >/dev/null 2>&1
dpkg -P hm-agent >/dev/null 2>&1
[ ! -e /var/lib/hm-agent ] && [ ! -e /etc/hm-agent ] || fail "state or settings are left"
systemctl is-enabled hm-agent 2>/dev/null && fail "it is enabled" || :
echo "PROVEN"
