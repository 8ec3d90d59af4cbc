# rpm from 4.19 on has made the user already, after sysusers.d. No uninstalling deletes it: nobody else ever gets its
# number, and with it files of it in backups.
getent group hm-agent >/dev/null || groupadd --system hm-agent || exit 1
getent passwd hm-agent >/dev/null ||
    useradd --system --gid hm-agent --home-dir /var/lib/hm-agent --no-create-home --shell /sbin/nologin hm-agent || exit 1
mkdir -p /var/lib/hm-agent && chown hm-agent:hm-agent /var/lib/hm-agent && chmod 0750 /var/lib/hm-agent
