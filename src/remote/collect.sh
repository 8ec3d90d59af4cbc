{
# What hm-agent has a host's sh run, over SSH: it prints kernel files when it is asked to. It writes nothing anywhere, and
# ends with the connection. Plain POSIX sh, whatever the login shell is.
m=MARKER
exec 2>/dev/null
LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH
read -r _ _ _ _ group _ </proc/$$/stat
# Ends this shell and whomever it has started.
end() {
	if [ "$group" = $$ ]; then kill -9 0; fi
	# The group is the server's as well (Dropbear's): those who descend from this shell.
	read -r self _ </proc/self/stat
	# Without a /proc, those whom it knows.
	[ "$self" ] || { kill -9 $watch $sizes $gpus; kill -9 $$; }
	ours=" $$ " more=yes
	while [ $more ]; do
		more=
		for stat in /proc/[0-9]*/stat; do
			text= pid=${stat#/proc/}
			pid=${pid%/stat}
			read -r text <"$stat"
			parent=${text##*) ? }
			parent=${parent%% *}
			case $ours in
			*" $pid "*) ;;
			*" $parent "*) ours="$ours$pid " more=yes ;;
			esac
		done
	done
	for pid in $ours; do
		if [ "$pid" != "$self" ]; then kill -9 "$pid"; fi
	done
	exit
}
# Nobody asks for 40 s: the network is cut, or a command hangs. Until it listens, the signal is for nobody.
trap '' USR1
(
	trap 'idle=0' USR1
	trap 'exit' TERM
	idle=0
	while [ $idle -lt 8 ]; do
		idle=$((idle + 1))
		sleep 5 || exit
	done
	end
) >/dev/null &
watch=$!
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
# Of memory, in bytes: BusyBox has no getconf.
page() {
	while read -r name size _; do
		case $name in KernelPageSize:) echo $((size * 1024)) && return ;; esac
	done </proc/self/smaps
	echo 4096
}
# What may hang goes on beside the rest, a line at a time.
aside() {
	while read -r text; do echo "$m$1 $text"; done
	echo "$m$1"
}
# File systems on devices of this machine: others may hang for ever.
sizes() {
	set -- /
	while read -r source point _; do
		case $source:$point in
		/dev/fuse:* | *\\*) ;;
		/dev/*) set -- "$@" "$point" ;;
		esac
	done </proc/mounts
	df -P -k -- "$@" | aside d
}
gpus() {
	nvidia-smi --query-gpu=FIELDS --format=csv,noheader,nounits | aside g
}
echo
echo "$m hello"
getconf PAGESIZE || page
echo "$m ."
while read -r wanted; do
	kill -USR1 $watch
	section uptime line /proc/uptime
	section loadavg line /proc/loadavg
	section stat cat /proc/stat
	section meminfo cat /proc/meminfo
	section net/dev cat /proc/net/dev
	section net/snmp cat /proc/net/snmp
	section diskstats cat /proc/diskstats
	section zones zones
	case $wanted in *p*) section processes cat /proc/[0-9]*/stat ;; esac
	case $wanted in *c*) section cpuinfo grep -v -e ^flags -e '^vmx flags' -e ^bugs -e ^Features /proc/cpuinfo ;; esac
	case $wanted in *t*) section topology topology ;; esac
	case $wanted in *n*)
		section devices devices
		section addresses ip -o address
		section mounts cat /proc/self/mountinfo
		;;
	esac
	echo "$m ."
	case $wanted in *d*) kill -0 $sizes || { sizes & sizes=$!; } ;; esac
	case $wanted in *g*) kill -0 $gpus || { gpus & gpus=$!; } ;; esac
done
end
}
