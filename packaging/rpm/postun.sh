command -v systemctl >/dev/null 2>&1 || exit 0
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload || :
# Restart after an upgrade. The user, its files and the settings are kept in any case.
[ "$1" -eq 0 ] || systemctl try-restart hm-agent.service || :
