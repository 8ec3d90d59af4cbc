# Fish completion for hm-agent.

function __hm_agent_settings
    # `hm-agent check` prints every setting.
    hm-agent check -c /dev/null 2>/dev/null | string replace --filter --regex '^(?:# )?([a-z_.]+) (?:=|is) .*# .*' '$1='
end

set -l subcommands run check sample events health status beat
set -l none "not __fish_seen_subcommand_from $subcommands"
set -l runs "not __fish_seen_subcommand_from check sample events health status beat"
set -l has_settings "not __fish_seen_subcommand_from status beat"
complete -c hm-agent -f
complete -c hm-agent -n "$none" -a run -d 'run the agent'
complete -c hm-agent -n "$none" -a check -d 'validate and print the configuration'
complete -c hm-agent -n "$none" -a sample -d 'measure this machine once'
complete -c hm-agent -n "$none" -a events -d 'print what happened to this node'
complete -c hm-agent -n "$none" -a health -d 'print what is wrong with this node'
complete -c hm-agent -n "$none" -a status -d 'print the heartbeat status of an application'
complete -c hm-agent -n "$none" -a beat -d 'run a command and send heartbeats until it exits'
complete -c hm-agent -n "$none" -s h -l help -d 'print the help'
complete -c hm-agent -n "$none" -s V -l version -d 'print the version'
complete -c hm-agent -n "$has_settings" -s c -l config -r -F -d 'configuration file'
complete -c hm-agent -n "$has_settings" -s s -l set -x -a '(__hm_agent_settings)' -d 'set one setting'
complete -c hm-agent -n "$runs" -l supervise -d 'restart the agent when it exits'
complete -c hm-agent -n "$runs" -l detach -d 'run in the background'
complete -c hm-agent -n "$runs" -l pid-file -r -F -d 'file for the process id of the supervisor'
complete -c hm-agent -n "$runs" -l syslog -d 'log to syslog'
complete -c hm-agent -n '__fish_seen_subcommand_from check' -l user -x -a '(__fish_complete_users)' -d 'test the files as this user'
complete -c hm-agent -n '__fish_seen_subcommand_from sample events health' -l json -d 'print JSON'
complete -c hm-agent -n '__fish_seen_subcommand_from health' -l acknowledge -x -d 'acknowledge a finding'
complete -c hm-agent -n '__fish_seen_subcommand_from events' -l since -x -d 'events of this time or later'
complete -c hm-agent -n '__fish_seen_subcommand_from status beat' -l url -x -d 'heartbeat server'
complete -c hm-agent -n '__fish_seen_subcommand_from beat' -l id -x -d 'application id'
complete -c hm-agent -n '__fish_seen_subcommand_from beat' -l every -x -d 'heartbeat interval in milliseconds'
complete -c hm-agent -n '__fish_seen_subcommand_from beat' -a '(__fish_complete_subcommand --fcs-skip=3)'
