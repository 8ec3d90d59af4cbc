#!/bin/sh
# Removes what install.sh has installed. Run it as root.
#
# uninstall.sh [--prefix DIR] [--purge]
#
# Settings (/etc/hm-agent) and state (/var/lib/hm-agent) are kept unless --purge is given. The user hm-agent is always kept, so
# that its UID is not reused.
set -eu

# install.sh replaces this path by the installed program's.
program=/usr/bin/hm-agent
prefix=${program%/bin/hm-agent}
purge=no
while [ $# -gt 0 ]; do
    case $1 in
    --prefix) prefix=${2:?--prefix needs a directory}; shift ;;
    --prefix=*) prefix=${1#*=} ;;
    --purge) purge=yes ;;
    *)
        sed -n '2,7s/^# \{0,1\}//p' "$0"
        case $1 in -h | --help) exit 0 ;; *) exit 2 ;; esac
        ;;
    esac
    shift
done
case $prefix in
/* | '') ;;
*) echo "uninstall.sh: --prefix needs an absolute path" >&2; exit 2 ;;
esac
root=${DESTDIR:-}
[ -n "$root" ] || [ "$(id -u)" -eq 0 ] || { echo "uninstall.sh: must be run as root" >&2; exit 1; }

unit=/etc/systemd/system/hm-agent.service
if [ -z "$root" ]; then
    if [ -e "$unit" ] && command -v systemctl >/dev/null 2>&1; then
        systemctl --no-reload disable hm-agent.service || :
        [ ! -d /run/systemd/system ] || systemctl stop hm-agent.service || :
    fi
    for script in /etc/init.d/hm-agent /etc/rc.d/init.d/hm-agent; do
        [ -x "$script" ] || continue
        if [ -x /sbin/openrc-run ]; then
            rc-service hm-agent stop || :
            rc-update del hm-agent default || :
        else
            "$script" stop || :
        fi
        if command -v chkconfig >/dev/null 2>&1; then chkconfig --del hm-agent || :; fi
    done
fi
rm -f "$root$unit" "$root/etc/init.d/hm-agent" "$root/etc/rc.d/init.d/hm-agent"
if [ -z "$root" ]; then
    if command -v update-rc.d >/dev/null 2>&1; then update-rc.d hm-agent remove || :; fi
    [ ! -d /run/systemd/system ] || systemctl daemon-reload || :
fi
rm -f "$root$prefix/bin/hm-agent" \
    "$root$prefix/share/man/man8/hm-agent.8" \
    "$root$prefix/share/bash-completion/completions/hm-agent" \
    "$root$prefix/share/zsh/site-functions/_hm-agent" \
    "$root$prefix/share/fish/vendor_completions.d/hm-agent.fish"
rm -rf "$root$prefix/share/doc/hm-agent" "$root$prefix/share/hm-agent" "$root/var/run/hm-agent"
if [ "$purge" = yes ]; then
    rm -rf "$root/etc/hm-agent" "$root/var/lib/hm-agent"
fi
