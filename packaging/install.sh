#!/bin/sh
# Installs or upgrades hm-agent without a package manager. Run it as root from the unpacked tarball. Settings and state are
# kept.
#
# install.sh [--prefix DIR] [--init systemd|openrc|sysv|none] [--no-start]
#
# Files go below --prefix (/usr/local); settings, init scripts and units to /etc. With DESTDIR set, everything goes below
# DESTDIR, and no service is started and no user created.
set -eu
case ${DESTDIR:-} in '' | /*) ;; *) DESTDIR=$PWD/$DESTDIR ;; esac
CDPATH='' cd -- "$(dirname -- "$0")"
# Installed files are world-readable, whatever the caller's umask.
umask 022

. ./user.sh

prefix=/usr/local
init=
start=yes
while [ $# -gt 0 ]; do
    case $1 in
    --prefix) prefix=${2:?--prefix needs a directory}; shift ;;
    --prefix=*) prefix=${1#*=} ;;
    --init) init=${2:?--init needs a name}; shift ;;
    --init=*) init=${1#*=} ;;
    --no-start) start=no ;;
    *)
        sed -n '2,8s/^# \{0,1\}//p' install.sh
        case $1 in -h | --help) exit 0 ;; *) exit 2 ;; esac
        ;;
    esac
    shift
done
root=${DESTDIR:-}

fail() { echo "install.sh: $*" >&2; exit 1; }
wrong() { echo "install.sh: $*" >&2; exit 2; }

# Before anything is changed.
case $init in
'' | systemd | openrc | sysv | none) ;;
*) wrong "--init is one of systemd, openrc, sysv, none" ;;
esac
# The program's path is written into units and scripts, each with its own rules for quoting. These characters need no quoting
# in any of them. In other locales, ranges contain other letters.
LC_ALL=C
case $prefix in
*[!A-Za-z0-9/._+,:=@-]*) wrong "--prefix may contain letters, digits and /._+,:=@- only" ;;
*/../* | */..) wrong "--prefix must not contain .." ;;
/*) ;;
*) wrong "--prefix needs an absolute path" ;;
esac
while [ "$prefix" != "${prefix%/}" ]; do prefix=${prefix%/}; done
# Below the limits of filesystems for a name and a path.
[ "${#prefix}" -le 200 ] || wrong "--prefix is longer than 200 characters"
[ ! -e "$root$prefix" ] || [ -d "$root$prefix/" ] || fail "$root$prefix is not a directory"
# This directory may be read-only.
temporary=$(mktemp -d) || fail "cannot create a temporary directory; TMPDIR names another place"
trap 'rm -rf "$temporary"' EXIT
trap 'exit 1' HUP INT TERM
# A copy, because this directory may be mounted noexec.
./hm-agent --version 2>/dev/null ||
    { cp hm-agent "$temporary/" && chmod 755 "$temporary/hm-agent" && "$temporary/hm-agent" --version; } ||
    fail "the binary beside this script does not run on $(uname -m)"
[ -n "$root" ] || [ "$(id -u)" -eq 0 ] || fail "must be run as root, unless DESTDIR is set"

detect_init() {
    if [ -n "$root" ]; then
        echo none
    elif [ -d /run/systemd/system ]; then
        echo systemd
    elif [ -x /sbin/openrc-run ]; then
        echo openrc
    elif [ -d /etc/init.d ] || [ -d /etc/rc.d/init.d ]; then
        echo sysv
    else
        echo none
    fi
}
[ -n "$init" ] || init=$(detect_init)

# put MODE FILE TO: writes a temporary file and renames it, so that a running program is replaced and not written to.
put() {
    mkdir -p "$root$(dirname "$3")"
    cp "$2" "$root$3.new"
    chmod "$1" "$root$3.new"
    mv -f "$root$3.new" "$root$3"
}

# The same for a script or unit that contains the program's path.
put_with_path() {
    sed "s|/usr/bin/hm-agent|$prefix/bin/hm-agent|g" "$2" >"$temporary/adapted"
    put "$1" "$temporary/adapted" "$3"
}

put 755 hm-agent "$prefix/bin/hm-agent"
put 644 hm-agent.8 "$prefix/share/man/man8/hm-agent.8"
put 644 completions/hm-agent.bash "$prefix/share/bash-completion/completions/hm-agent"
put 644 completions/_hm-agent "$prefix/share/zsh/site-functions/_hm-agent"
put 644 completions/hm-agent.fish "$prefix/share/fish/vendor_completions.d/hm-agent.fish"
for file in README.md CHANGELOG.md SECURITY.md LICENSE-APACHE LICENSE-MIT THIRD-PARTY.txt hm-agent.cdx.json; do
    put 644 "$file" "$prefix/share/doc/hm-agent/$file"
done
for file in docs/*; do
    [ ! -f "$file" ] || put 644 "$file" "$prefix/share/doc/hm-agent/$file"
done
put_with_path 755 uninstall.sh "$prefix/share/hm-agent/uninstall.sh"
settings=/etc/hm-agent/hm-agent.toml
if [ -e "$root$settings" ]; then
    # The example of this version, for comparison.
    put 644 hm-agent.toml "$prefix/share/doc/hm-agent/hm-agent.toml"
else
    put 640 hm-agent.toml "$settings"
fi
[ -n "$root" ] || create_user
# The settings may contain tokens: the agent reads them, and other users do not.
group=$(sed -n 's/^hm-agent:[^:]*:\([0-9]*\):.*/\1/p' "$root/etc/group" 2>/dev/null) || :
if [ -n "$group" ] && [ "$(id -u)" -eq 0 ]; then
    chown "0:$group" "$root$settings"
    chmod 640 "$root$settings"
else
    chmod o-rwx "$root$settings"
    echo "install.sh: only root can read $settings yet; in the installed system: chgrp hm-agent $settings" >&2
fi

rc_d=/etc/init.d
[ -d /etc/init.d ] || [ ! -d /etc/rc.d/init.d ] || rc_d=/etc/rc.d/init.d
case $init in
systemd)
    put_with_path 644 systemd/hm-agent.service /etc/systemd/system/hm-agent.service
    if [ "$start" = yes ] && [ -z "$root" ]; then
        systemctl daemon-reload
        systemctl enable hm-agent.service
        systemctl restart hm-agent.service
    fi
    ;;
openrc)
    put_with_path 755 init/hm-agent.openrc /etc/init.d/hm-agent
    if [ "$start" = yes ] && [ -z "$root" ]; then
        rc-update add hm-agent default
        rc-service hm-agent restart
    fi
    ;;
sysv)
    put_with_path 755 init/hm-agent.sysv "$rc_d/hm-agent"
    if [ "$start" = yes ] && [ -z "$root" ]; then
        if command -v update-rc.d >/dev/null 2>&1; then
            update-rc.d hm-agent defaults
        elif command -v chkconfig >/dev/null 2>&1; then
            chkconfig --add hm-agent
        else
            echo "install.sh: found neither update-rc.d nor chkconfig; run \"$rc_d/hm-agent start\" at boot" >&2
        fi
        "$rc_d/hm-agent" restart
    fi
    ;;
none)
    [ -n "$root" ] || cat <<END
No service manager found. This command starts the agent and restarts it when it exits, for example from /etc/rc.local:
    su -s /bin/sh -c '$prefix/bin/hm-agent run --supervise --detach --syslog' hm-agent
END
    ;;
esac
