# The agent's user and its directory. Part of the packages' scripts and of install.sh. It may be here already: nothing of
# it is changed then, and no uninstalling deletes it, so nobody else ever gets its number and what files of it are left.
make_user() {
    getent group hm-agent >/dev/null 2>&1 || grep -q '^hm-agent:' /etc/group || {
        groupadd --system hm-agent 2>/dev/null || addgroup -S hm-agent
    }
    getent passwd hm-agent >/dev/null 2>&1 || grep -q '^hm-agent:' /etc/passwd || {
        nologin=$(command -v nologin || echo /bin/false)
        useradd --system --gid hm-agent --home-dir /var/lib/hm-agent --no-create-home --shell "$nologin" hm-agent \
            2>/dev/null ||
            adduser -S -D -H -h /var/lib/hm-agent -s "$nologin" -G hm-agent hm-agent
        # Some sites let this group alone use /dev/nvidia*; by default everybody may.
        if grep -q '^video:' /etc/group; then
            usermod -a -G video hm-agent 2>/dev/null || addgroup hm-agent video
        fi
    }
    mkdir -p /var/lib/hm-agent
    chown hm-agent:hm-agent /var/lib/hm-agent
    chmod 0750 /var/lib/hm-agent
}
