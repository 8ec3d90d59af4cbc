# Bash completion for hm-agent. Needs no functions of bash-completion.

_hm_agent() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} subcommand= index list
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        case ${COMP_WORDS[index]} in
        -c | --config | -s | --set | --url | --id | --every | --since | --pid-file) index=$((index + 1)) ;;
        --) # the command of beat
            [[ $subcommand == beat ]] || return
            if ((index + 1 == COMP_CWORD)); then
                mapfile -t COMPREPLY < <(compgen -c -- "$current")
            else
                mapfile -t COMPREPLY < <(compgen -f -- "$current")
            fi
            return
            ;;
        -*) ;;
        *) [[ -n $subcommand ]] || subcommand=${COMP_WORDS[index]} ;;
        esac
    done
    case $previous in
    -c | --config | --pid-file)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        compopt -o filenames 2>/dev/null
        return
        ;;
    -s | --set)
        # `hm-agent check` prints every setting.
        list=$("${COMP_WORDS[0]}" check -c /dev/null 2>/dev/null | sed -n 's/^\(# \)\{0,1\}\([a-z_.]\{1,\}\) \(=\|is\) .*# .*/\2=/p')
        mapfile -t COMPREPLY < <(compgen -W "$list" -- "$current")
        compopt -o nospace 2>/dev/null
        return
        ;;
    --user)
        mapfile -t COMPREPLY < <(compgen -u -- "$current")
        return
        ;;
    --url | --id | --every | --since) return ;;
    esac
    case $subcommand in
    '') list='run check sample events health status beat --config --set --supervise --detach --pid-file --syslog --help --version' ;;
    run) list='--config --set --supervise --detach --pid-file --syslog' ;;
    check) list='--config --set --user' ;;
    sample) list='--json --config --set' ;;
    health) list='--json --acknowledge --config --set' ;;
    events) list='--json --since --config --set' ;;
    status) list='--url' ;;
    beat) list='--id --every --url --' ;;
    *) return ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$list" -- "$current")
}
complete -F _hm_agent hm-agent
