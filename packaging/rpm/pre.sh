# rpm 4.19 and later has created the user already, from sysusers.d. Uninstalling keeps the user, so that its UID, and with it
# the ownership of files in backups, is not reused.
getent group hm-agent >/dev/null || groupadd --system hm-agent || exit 1
getent passwd hm-agent >/dev/null ||
    useradd --system --gid hm-agent --home-dir /var/lib/hm-agent --no-create-home --shell /sbin/nologin hm-agent || exit 1
mkdir -p /var/lib/hm-agent && chown hm-agent:hm-agent /var/lib/hm-agent && chmod 0750 /var/lib/hm-agent
