# Read by the scripts beside it: which VMs there are, where everything is, and how a command gets onto a VM.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
tag=${MESHDEMO:-meshdemo}       # namespaces and the directory in /run begin with it
state=/run/$tag                 # there while a demo runs
vms=(vm-1 vm-2 vm-3)
export PATH=$PATH:/usr/sbin:/sbin

fail() { # WHAT NEXT
    printf 'vm-demo: %s\nnext:    %s\n' "$1" "$2" >&2
    exit 1
}

address() { # VM: its address; that of the bridge is `hub`
    local network number
    network=${MESHDEMO_NETWORK:-$(cat "$state/network")}
    case $1 in hub) number=1 ;; *) number=1${1#vm-} ;; esac
    printf '%s.%s\n' "$network" "$number"
}

on() { # VM COMMAND...: run it there, as root
    "$here/in" "$@"
}

everywhere() { # COMMAND...: on every VM, at the same time
    local vm running=()
    for vm in "${vms[@]}"; do
        on "$vm" "$@" &
        running+=($!)
    done
    for vm in "${running[@]}"; do wait "$vm"; done
}
