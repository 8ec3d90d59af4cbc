command -v systemctl >/dev/null 2>&1 || exit 0
if [ "$1" -eq 0 ]; then # not an upgrade
    systemctl --no-reload disable hm-agent.service >/dev/null 2>&1 || :
    [ ! -d /run/systemd/system ] || systemctl stop hm-agent.service || :
fi
