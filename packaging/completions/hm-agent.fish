# Completion of hm-agent for fish.

function __hm_agent_settings
    # The agent knows its settings itself.
    hm-agent check 2>/dev/null | string replace --filter --regex '^(?:# )?([a-z_.]+) (?:=|is) .*# .*' '$1='
end

set -l verbs run check sample status beat
set -l none "not __fish_seen_subcommand_from $verbs"
set -l runs "not __fish_seen_subcommand_from check sample status beat"
set -l sets "not __fish_seen_subcommand_from status beat"
complete -c hm-agent -f
complete -c hm-agent -n "$none" -a run -d 'be the agent'
complete -c hm-agent -n "$none" -a check -d 'validate and print the settings'
complete -c hm-agent -n "$none" -a sample -d 'one look at this machine'
complete -c hm-agent -n "$none" -a status -d 'how an application beats'
complete -c hm-agent -n "$none" -a beat -d 'run a command and beat while it lives'
complete -c hm-agent -n "$none" -s h -l help -d 'say how to use it'
complete -c hm-agent -n "$none" -s V -l version -d 'say which version it is'
complete -c hm-agent -n "$sets" -s c -l config -r -F -d 'settings file'
complete -c hm-agent -n "$sets" -s s -l set -x -a '(__hm_agent_settings)' -d 'one setting'
complete -c hm-agent -n "$runs" -l supervise -d 'start the agent again when it dies'
complete -c hm-agent -n "$runs" -l detach -d 'go to the background once it listens'
complete -c hm-agent -n "$runs" -l pid-file -r -F -d 'where the number of the supervisor is written'
complete -c hm-agent -n "$runs" -l syslog -d 'log to syslog'
complete -c hm-agent -n '__fish_seen_subcommand_from sample' -l json -d 'as JSON'
complete -c hm-agent -n '__fish_seen_subcommand_from status beat' -l url -x -d 'the heartbeat server'
complete -c hm-agent -n '__fish_seen_subcommand_from beat' -l id -x -d 'who beats'
complete -c hm-agent -n '__fish_seen_subcommand_from beat' -l every -x -d 'milliseconds between two beats'
complete -c hm-agent -n '__fish_seen_subcommand_from beat' -a '(__fish_complete_subcommand --fcs-skip=3)'
