{
# hm-agent runs this in sh on a remote host, over SSH. For each line on standard input it prints kernel files, framed by
# lines that begin with the marker. It writes no files and exits with the connection. Plain POSIX sh: the login shell
# may be any.
m=MARKER
exec 2>/dev/null
LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH
read -r _ _ _ _ group _ </proc/$$/stat
# Kills this shell and its descendants.
kill_tree() {
	if [ "$group" = $$ ]; then kill -9 0; fi
	# This shell leads no process group, so its group contains the SSH server (Dropbear): kill only the descendants.
	read -r self _ </proc/self/stat
	# Without /proc, kill the known children.
	[ "$self" ] || { kill -9 $timer $sizes $gpus; kill -9 $$; }
	tree=" $$ " more=yes
	while [ $more ]; do
		more=
		for stat in /proc/[0-9]*/stat; do
			text= pid=${stat#/proc/}
			pid=${pid%/stat}
			read -r text <"$stat"
			parent=${text##*) ? }
			parent=${parent%% *}
			case $tree in
			*" $pid "*) ;;
			*" $parent "*) tree="$tree$pid " more=yes ;;
			esac
		done
	done
	for pid in $tree; do
		if [ "$pid" != "$self" ]; then kill -9 "$pid"; fi
	done
	exit
}
# Idle timer: without a request for 40 s, the network is cut or a command hangs, and everything is killed. SIGUSR1
# restarts it; the signal is ignored until the timer handles it.
trap '' USR1
(
	trap 'idle=0' USR1
	trap 'exit' TERM
	idle=0
	while [ $idle -lt 8 ]; do
		idle=$((idle + 1))
		sleep 5 || exit
	done
	kill_tree
) >/dev/null &
timer=$!
section() {
	echo "$m $1"
	shift
	"$@"
}
line() {
	if read -r text <"$1"; then echo "$2$text"; fi
}
zones() {
	for zone in /sys/class/thermal/thermal_zone*; do line "$zone/temp" "${zone##*zone} "; done
}
devices() {
	for device in /sys/class/net/*; do
		if [ -e "$device/device" ]; then echo "${device##*/}"; fi
	done
}
topology() {
	for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
		package= core= khz=
		read -r package <"$cpu/topology/physical_package_id"
		read -r core <"$cpu/topology/core_id"
		read -r khz <"$cpu/cpufreq/scaling_cur_freq"
		echo "${cpu##*cpu} ${package:--} ${core:--} ${khz:--}"
	done
}
# Page size of memory in bytes: BusyBox has no getconf.
page_size() {
	while read -r name size _; do
		case $name in KernelPageSize:) echo $((size * 1024)) && return ;; esac
	done </proc/self/smaps
	echo 4096
}
# Prints the output of a background command that may hang, one framed line at a time, between the lines of sections.
async_part() {
	while read -r text; do echo "$m$1 $text"; done
	echo "$m$1"
}
disk_types='apfs|bcachefs|btrfs|exfat|ext2|ext3|ext4|f2fs|fuseblk|hfs|hfsplus|jffs2|jfs|msdos|nilfs2|ntfs|ntfs3|reiser4|reiserfs|ubifs|udf|ufs|vfat|xfs|zfs'
# The root and mounts of these types. With thousands of containers the whole table has megabytes.
mounts() {
	grep -E -e '^[^ ]* [^ ]* [^ ]* [^ ]* / ' -e " - ($disk_types) " /proc/self/mountinfo
}
# Filesystems on devices of this machine, by type: network filesystems may block indefinitely. Files mounted into
# containers and volumes of kubelets are left out.
sizes() {
	set -- /
	while read -r _ point type _; do
		case $point in *\\* | */kubernetes.io~* | */globalmount) continue ;; esac
		case "|$disk_types|" in *"|$type|"*) if [ -d "$point" ]; then set -- "$@" "$point"; fi ;; esac
	done </proc/mounts
	df -P -k -- "$@" | async_part d
}
gpus() {
	nvidia-smi --query-gpu=FIELDS --format=csv,noheader,nounits | async_part g
}
echo
echo "$m page-size"
getconf PAGESIZE || page_size
echo "$m ."
while read -r request; do
	kill -USR1 $timer
	section uptime line /proc/uptime
	section loadavg line /proc/loadavg
	section stat cat /proc/stat
	section meminfo cat /proc/meminfo
	section net/dev cat /proc/net/dev
	section net/snmp cat /proc/net/snmp
	section diskstats cat /proc/diskstats
	section zones zones
	case $request in *p*) section processes cat /proc/[0-9]*/stat ;; esac
	case $request in *c*) section cpuinfo grep -v -e ^flags -e '^vmx flags' -e ^bugs -e ^Features /proc/cpuinfo ;; esac
	case $request in *t*) section topology topology ;; esac
	case $request in *n*)
		section devices devices
		section addresses ip -o address
		section mounts mounts
		;;
	esac
	echo "$m ."
	case $request in *d*) kill -0 $sizes || { sizes & sizes=$!; } ;; esac
	case $request in *g*) kill -0 $gpus || { gpus & gpus=$!; } ;; esac
done
kill_tree
}
