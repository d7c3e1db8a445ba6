# Read by up.sh and down.sh: three "VMs" as namespaces, on a bridge in a fourth one. Nothing outside of them is changed:
# no link, address, route, rule or sysctl of this machine, and no file but those in $state.
#
# A VM has a network, a host name, processes, and an /etc, a /var/lib and a /run of its own. The last three are memory
# and end with its first process.

namespaces=("$tag-net" "${vms[@]/#/$tag-}")

unused_network() { # prints the first three numbers of a /24 that this machine has no route to
    local network
    for network in 10.77.0 10.177.77 172.29.77 192.168.177 198.18.77; do
        if [ -z "$(ip -4 route show table all root "$network.0/24")" ] &&
            [ -z "$(ip -4 route show table all match "$network.0/24" | grep -v '^\(default\|broadcast\|local\)')" ]; then
            printf '%s\n' "$network"
            return
        fi
    done
    fail "this machine has routes to every network that the demo would use" "MESHDEMO_NETWORK=10.1.2 vm-demo/up.sh"
}

make_network() {
    local net=$tag-net vm
    ip netns add "$net"
    ip -n "$net" link add bridge type bridge
    ip -n "$net" addr add "$(address hub)/24" dev bridge
    ip -n "$net" link set bridge up
    for vm in "${vms[@]}"; do
        ip netns add "$tag-$vm"
        ip -n "$tag-$vm" link set lo up
        ip -n "$net" link add "$vm" type veth peer name eth0 netns "$tag-$vm"
        ip -n "$net" link set "$vm" master bridge up
        ip -n "$tag-$vm" addr add "$(address "$vm")/24" dev eth0
        ip -n "$tag-$vm" link set eth0 up
        ip -n "$tag-$vm" route add default via "$(address hub)"
    done
}

boot() { # VM: its first process, which holds the namespaces; its number goes to $state/VM.pid
    local vm=$1 first tries=200
    ip netns exec "$tag-$vm" unshare --mount --uts --pid --fork --mount-proc \
        bash "$here/vm/boot" "$vm" "$tag" "$network" >"$state/$vm.booted" 2>"$state/$vm.log" </dev/null &
    disown
    until [ -s "$state/$vm.booted" ]; do
        [ $((tries -= 1)) -gt 0 ] || fail "$vm does not boot: $(cat "$state/$vm.log")" "vm-demo/down.sh"
        sleep 0.1
    done
    for first in $(ip netns pids "$tag-$vm"); do
        # The process that is number 1 in its own namespace; the other one waits for it.
        if [ "$(awk '/^NSpid:/ { print $NF }' "/proc/$first/status")" = 1 ]; then
            printf '%s\n' "$first" >"$state/$vm.pid"
        fi
    done
}

end_scripts() { # NAME...: the scripts of which $state/NAME.pid tells, if that is what these processes still are
    local name pid
    for name in "$@"; do
        pid=$(cat "$state/$name.pid" 2>/dev/null) || continue
        if { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -q "$here/\|vm-demo/up"; then
            kill -9 "$pid" 2>/dev/null || true # not asked: it would begin to take things away itself
            sleep 0.2                          # what it started last ends by itself
        fi
    done
}

remove_all() { # every process, namespace and file, however far making them came
    local namespace pids
    for namespace in "${namespaces[@]}"; do
        [ -e "/run/netns/$namespace" ] || continue
        while pids=$(ip netns pids "$namespace") && [ -n "$pids" ]; do
            # shellcheck disable=SC2086
            kill -9 $pids 2>/dev/null || true
            sleep 0.05
        done
        ip netns delete "$namespace"
    done
    rm -rf "$state"
}
