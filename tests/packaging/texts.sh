#!/usr/bin/env bash
# Lints the man page and runs the completions in their shells.
# texts.sh AGENT
set -euo pipefail
cd "$(dirname "$0")/../.."
agent=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ln -s "$agent" "$work/hm-agent"
export PATH="$work:$PATH" HOME="$work"
fail() { printf '%s\n' "FAILED: $*" >&2; exit 1; }

# The pages that it refers to may not be installed.
warnings=$(mandoc -T lint packaging/hm-agent.8 2>&1 | grep -v -e 'referenced manual not found' -e 'outdated mandoc.db' || :)
[ -z "$warnings" ] || fail "$warnings"

cat >"$work/bash" <<'BASH'
. packaging/completions/hm-agent.bash
words=($1)
[[ $1 != *' ' ]] || words+=('')
COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
_hm_agent 2>/dev/null
printf '%s\n' "${COMPREPLY[@]}"
BASH
cat >"$work/fish" <<'FISH'
source packaging/completions/hm-agent.fish
complete -C "$argv[1]"
FISH
cat >"$work/zsh" <<'ZSH'
# Reads the list of choices from an interactive shell on a terminal.
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PS1=; fpath=($PWD/packaging/completions \$fpath); autoload -Uz compinit; compinit -u -D; LISTMAX=1000
    bindkey '^I' list-choices; stty columns 200; COLUMNS=200; print -r RE''ADY"
while zpty -r z line; do [[ $line != *READY* ]] || break; done
zpty -w -n z "$1"$'\t'
# Until there is no output for a second, after the first output.
integer lines=0 quiet=0
for try in {1..100}; do
    sleep 0.1
    quiet+=1
    while zpty -r -t z line; do
        print -r -- "${line//$'\e'\[[^a-zA-Z]#[a-zA-Z]/ }"
        lines+=1 quiet=0
    done
    ((lines < 2 || quiet < 10)) || break
done
ZSH

completes() { # LINE WORD...: in every shell, LINE must complete to the words
    local line=$1 shell word
    shift
    for shell in bash fish zsh; do
        case $shell in
        bash) bash "$work/bash" "$line" >"$work/output" ;;
        fish) fish "$work/fish" "$line" >"$work/output" ;;
        zsh) zsh -f "$work/zsh" "$line" >"$work/output" 2>&1 ;;
        esac
        for word; do
            grep -q -a -e "^[^a-z-]*$word" -e " $word" "$work/output" || fail "$shell: $line: no $word: $(cat "$work/output")"
        done
    done
    echo "   $line: $*"
}
completes 'hm-agent ' run check sample status beat
completes 'hm-agent run --' --supervise --detach --pid-file --syslog --config --set
completes 'hm-agent sample --' --json
completes 'hm-agent -s gpu.' gpu.source gpu.timeout
completes 'hm-agent beat --' --id --every --url
completes 'hm-agent beat -- hostna' hostname
