#!/usr/bin/env bash
# Whole servers on one machine: each has a network, mounts, process ids, a host name, /etc, /var/lib and /run of its own, and a
# Docker. What they see of the machine is its programs. Needs root and Debian's docker.io, iproute2, iptables and util-linux.
#
#   hosts.sh up N            hosts 1 to N, on one switch; ready when their Docker answers
#   hosts.sh start|kill H    power on, power loss: every process of the host ends at once, its disk stays
#   hosts.sh cut|heal A B    drops every packet between two hosts, or lets them pass again
#   hosts.sh cut1 A B        drops what A sends to B; back it passes
#   hosts.sh down            ends everything and removes every trace
# Host H is h1, h2 … at 10.99.0.(10+H) in namespace PREFIX-hH; its first process is in DIR/hH/init.pid.
set -euo pipefail
P=${HOSTS_PREFIX:?a prefix of namespaces} D=${HOSTS_DIR:?a folder for state and disks}
NET=10.99 SWITCH=$P-sw
die() { echo "hosts: $*" >&2; exit 1; }
ip_of() { echo "$NET.0.$((10 + ${1#h}))"; }
first() { cat "$D/$1/init.pid" 2>/dev/null || true; }
runs() { local pid; pid=$(first "$1"); [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; }
hosts() { find "$D" -maxdepth 1 -name 'h[0-9]*' -printf '%f\n' 2>/dev/null | sort -V; }
inside() { local host=$1; shift; runs "$host" || die "$host does not run"; nsenter -t "$(first "$host")" -a -- "$@"; }

plug() { # its network, and a port of the switch
    local host=$1 ns=$P-$1
    ip netns add "$ns"
    ip -n "$SWITCH" link add "p-$host" type veth peer name eth0 netns "$ns"
    ip -n "$SWITCH" link set "p-$host" master sw up
    ip -n "$ns" link set lo up
    ip -n "$ns" addr add "$(ip_of "$host")/24" dev eth0
    ip -n "$ns" link set eth0 up
}

first_process() { # runs as process 1 of a host
    local host=$1 root=$D/$1 number=${1#h}
    mount --make-rprivate /
    hostname "$host"
    for shared in etc var/lib; do
        mkdir -p "$root/disk/$shared" "$root/work/$shared"
        mount -t overlay overlay -o "lowerdir=/$shared,upperdir=$root/disk/$shared,workdir=$root/work/$shared" "/$shared"
    done
    local plain # a Docker wants no overlay, and the API's socket is reached from outside
    for plain in docker kith; do mkdir -p "$root/$plain" "/var/lib/$plain"; mount --bind "$root/$plain" "/var/lib/$plain"; done
    mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/lock
    [ -L /var/run ] || mount --bind /run /var/run
    printf '127.0.0.1 localhost %s\n' "$host" >/etc/hosts && echo "$host" >/etc/hostname
    sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 || true
    local group
    for group in /sys/fs/cgroup/*/; do # containers are counted under the host, and go with it
        [ "$(stat -f -c %T "$group")" = cgroupfs ] && mkdir -p "$group$P-$host" 2>/dev/null && echo 0 >"$group$P-$host/cgroup.procs" || true
    done 2>/dev/null
    dockerd --host unix:///run/docker.sock --pidfile /run/docker.pid --exec-root /run/docker --cgroup-parent "/$P-$host/ct" \
        --bip "$NET.$((100 + number)).1/25" --default-address-pool "base=$NET.$((100 + number)).128/25,size=27" >>"$root/docker.log" 2>&1 &
    while :; do wait -n 2>/dev/null || true; sleep 1 & wait $! || true; done # whose parent ended is reaped here
}

boot() {
    local host=$1 root=$D/$1 outer child
    runs "$host" && die "$host runs"
    mkdir -p "$root"
    setsid nsenter --net="/run/netns/$P-$host" unshare --mount --uts --ipc --pid --fork --mount-proc --kill-child=KILL \
        "$0" __first "$host" </dev/null >"$root/init.log" 2>&1 &
    outer=$!
    for _ in $(seq 100); do
        child=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null || true)
        [ -n "$child" ] && { echo "${child%% *}" >"$root/init.pid"; return; }
        sleep 0.05
    done
    die "$host did not start: $(tail -1 "$root/init.log")"
}
ready() {
    for _ in $(seq 300); do
        inside "$1" docker version >/dev/null 2>&1 && return
        sleep 0.1
    done
    die "the Docker of $1 does not answer: $(tail -1 "$D/$1/docker.log")"
}
off() {
    local pid; pid=$(first "$1"); [ -n "$pid" ] || return 0
    kill -KILL "$pid" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
    rm -f "$D/$1/init.pid"
}
wall() { ip netns exec "$P-$2" iptables -w -t raw "$1" PREROUTING -s "$(ip_of "$3")" -j DROP; } # -I|-D AT FROM

command=${1:-help}; shift || true
case $command in
__first) first_process "$1" ;;
up)
    ip netns add "$SWITCH"; ip -n "$SWITCH" link add sw type bridge; ip -n "$SWITCH" link set sw up
    for number in $(seq "${1:?how many}"); do plug "h$number"; boot "h$number"; done
    for number in $(seq "$1"); do ready "h$number"; done ;;
start) boot "$1"; ready "$1" ;;
kill) off "$1" ;;
cut) wall -I "$1" "$2"; wall -I "$2" "$1" ;;
cut1) wall -I "$2" "$1" ;;
heal) for pair in "$1 $2" "$2 $1"; do read -r at from <<<"$pair"; while wall -D "$at" "$from" 2>/dev/null; do :; done; done ;;
down)
    for host in $(hosts); do off "$host"; done
    for ns in $(ip netns list | cut -d' ' -f1 | grep -E "^$P-(h[0-9]+|sw)$" || true); do ip netns del "$ns"; done
    for host in $(hosts); do
        for group in /sys/fs/cgroup/*/; do
            for _ in 1 2 3 4 5; do
                [ -d "$group$P-$host" ] || break
                find "$group$P-$host" -depth -type d -exec rmdir {} \; 2>/dev/null || true
                [ -d "$group$P-$host" ] && sleep 0.1
            done
        done
        rm -rf --one-file-system "${D:?}/$host"
    done ;;
*) sed -n '2,12p' "$0" >&2; exit 2 ;;
esac
