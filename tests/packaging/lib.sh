# What the tests of packages share. POSIX shell: it runs in roots that have no other.

say() { printf '%s\n' "   $*"; }

fail() {
    printf '%s\n' "FAILED: $*" >&2
    for log in /var/log/hm-agent/*.log; do [ ! -f "$log" ] || tail -n 20 "$log" >&2; done
    [ ! -d /run/systemd/system ] || journalctl --no-pager -n 20 -o cat >&2
    exit 1
}

# code N COMMAND...: it exits with N.
code() {
    wanted=$1
    shift
    got=0
    "$@" >/tmp/said 2>&1 || got=$?
    [ "$got" -eq "$wanted" ] || {
        cat /tmp/said >&2
        fail "$* exits with $got, not $wanted"
    }
    say "$* exits with $wanted"
}

# soon COMMAND...: it succeeds within ten seconds.
soon() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 50 ] || fail "not within ten seconds: $*"
        sleep 0.2
    done
}

# Numbers of the processes that run hm-agent, the oldest first.
agents() {
    for exe in $(ls /proc | grep '^[0-9]' | sort -n); do
        case $(readlink "/proc/$exe/exe" 2>/dev/null) in */bin/hm-agent*) echo "$exe" ;; esac
    done
}

none_runs() { [ -z "$(agents)" ]; }

# It answers: with 3 while no application beats, and not with 2, which is how nobody answers.
answers() {
    answer=0
    hm-agent status || answer=$?
    [ "$answer" -ne 2 ]
}
