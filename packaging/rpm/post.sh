# The settings may contain tokens, and a modified file keeps the mode of earlier versions.
settings=/etc/hm-agent/hm-agent.toml
[ ! -f "$settings" ] || { chown root:hm-agent "$settings" && chmod 0640 "$settings"; } || :
