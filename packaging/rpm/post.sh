command -v systemctl >/dev/null 2>&1 || exit 0
[ ! -d /run/systemd/system ] || systemctl daemon-reload || :
# What the distribution, or the site, wants of new services.
[ "$1" -ne 1 ] || systemctl --no-reload preset hm-agent.service >/dev/null 2>&1 || :
