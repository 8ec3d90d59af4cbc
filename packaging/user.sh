# Sourced by install.sh: creates the agent's user and its directory with the tools of shadow or BusyBox. An existing user is not
# changed.
create_user() {
    grep -q '^hm-agent:' /etc/group || groupadd --system hm-agent 2>/dev/null || addgroup -S hm-agent
    nologin=$(command -v nologin || echo /bin/false)
    grep -q '^hm-agent:' /etc/passwd ||
        useradd --system --gid hm-agent --home-dir /var/lib/hm-agent --no-create-home --shell "$nologin" \
            hm-agent 2>/dev/null ||
        adduser -S -D -H -h /var/lib/hm-agent -s "$nologin" -G hm-agent hm-agent
    mkdir -p /var/lib/hm-agent
    chown hm-agent:hm-agent /var/lib/hm-agent
    chmod 0750 /var/lib/hm-agent
}
