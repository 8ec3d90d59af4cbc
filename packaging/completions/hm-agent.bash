# Completion of hm-agent for bash. It needs nothing of bash-completion but to be loaded by it.

_hm_agent() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} verb= at list
    COMPREPLY=()
    for ((at = 1; at < COMP_CWORD; at++)); do
        case ${COMP_WORDS[at]} in
        -c | --config | -s | --set | --url | --id | --every | --pid-file |) at=$((at + 1)) ;;
        --) # a command of the user's own
            [[ $verb == beat ]] || return
            if ((at + 1 == COMP_CWORD)); then
                mapfile -t COMPREPLY < <(compgen -c -- "$word")
            else
                mapfile -t COMPREPLY < <(compgen -f -- "$word")
            fi
            return
            ;;
        -*) ;;
        *) [[ -n $verb ]] || verb=${COMP_WORDS[at]} ;;
        esac
    done
    case $previous in
    -c | --config | --pid-file |)
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        compopt -o filenames 2>/dev/null
        return
        ;;
    -s | --set)
        # The agent knows its settings itself.
        list=$("${COMP_WORDS[0]}" check 2>/dev/null | sed -n 's/^\(# \)\{0,1\}\([a-z_.]\{1,\}\) \(=\|is\) .*# .*/\2=/p')
        mapfile -t COMPREPLY < <(compgen -W "$list" -- "$word")
        compopt -o nospace 2>/dev/null
        return
        ;;
    --url | --id | --every) return ;;
    esac
    case $verb in
    '') list='run check sample status beat --config --set --supervise --detach --pid-file --syslog --help --version' ;;
    run) list='--config --set --supervise --detach --pid-file --syslog' ;;
    check) list='--config --set' ;;
    sample) list='--json --config --set' ;;
    status) list='--url' ;;
    beat) list='--id --every --url --' ;;
    *) return ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$list" -- "$word")
}
complete -F _hm_agent hm-agent
