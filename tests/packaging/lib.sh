# Functions for the package tests. POSIX shell: they run in roots that have no other.

say() { printf '%s\n' "   $*"; }

fail() {
    printf '%s\n' "FAILED: $*" >&2
    [ ! -f /tmp/syslog ] || tail -n 20 /tmp/syslog >&2
    [ ! -d /run/systemd/system ] || journalctl --no-pager -n 20 -o cat >&2
    exit 1
}

# code N COMMAND...: fails unless COMMAND exits with N.
code() {
    expected=$1
    shift
    actual=0
    "$@" >/tmp/output 2>&1 || actual=$?
    [ "$actual" -eq "$expected" ] || {
        cat /tmp/output >&2
        fail "$* exits with $actual, not $expected"
    }
    say "$* exits with $expected"
}

# soon COMMAND...: fails unless COMMAND succeeds within ten seconds.
soon() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 50 ] || fail "timeout (10 s): $*"
        sleep 0.2
    done
}

# PIDs of the processes that run hm-agent, the oldest first.
agents() {
    for pid in $(ls /proc | grep '^[0-9]' | sort -n); do
        case $(readlink "/proc/$pid/exe" 2>/dev/null) in */bin/hm-agent*) echo "$pid" ;; esac
    done
}

none_runs() { [ -z "$(agents)" ]; }

# Whether the agent responds. Its status is 3 while no application sends heartbeats; 2 means no response.
responds() {
    status=0
    hm-agent status || status=$?
    [ "$status" -ne 2 ]
}
