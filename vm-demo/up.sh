#!/usr/bin/env bash
# Makes three "VMs" of this machine, tells the story of a mesh on them (walk.sh), and leaves it running to play with.
#
# usage: vm-demo/up.sh [--store consul|etcd] [--pause]       --pause: wait for Enter after each chapter
#
# Takes .venv and .servers of this checkout, and makes them where they are missing (`make setup`, `scripts/servers`).
# Exit code 0 when every observation was right. Ctrl-C takes everything away again; so does vm-demo/down.sh, at any time.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/places.sh"
. "$here/namespaces.sh"
began=$SECONDS

store=consul walk=()
while [ $# -gt 0 ]; do
    case $1 in
    --store) shift && store=${1:-none} ;;
    --store=*) store=${1#*=} ;;
    --pause) walk+=(--pause) ;;
    *) sed -n 's/^# \?//p' "$0" | sed -n 3p >&2 && exit 2 ;;
    esac
    shift || true
done
case $store in
consul) servers=(consul) ;;
etcd) servers=(etcd etcdctl) ;;
*) fail "there is no store '$store' for the demo" "--store consul, or --store etcd" ;;
esac

[ "$(uname -s)" = Linux ] || fail "VMs that are namespaces need Linux" "see vm-demo/README.md, Real VMs"
[ "$(id -u)" = 0 ] || fail "making namespaces needs root" "sudo $0${store:+ --store $store}"
[ ! -e "$state" ] || fail "one runs already, or was interrupted" "vm-demo/in vm-1 meshagent status, or vm-demo/down.sh"
case $root in /run/* | /etc/* | /var/lib/*) fail "a VM does not see $root" "move the checkout elsewhere" ;; esac
for tool in curl openssl nsenter unshare; do
    command -v "$tool" >/dev/null || fail "there is no $tool on this machine" "install it (Debian: apt-get install $tool)"
done
command -v ip >/dev/null || "$root/scripts/servers" tools

as_owner() { # run it as whom the checkout belongs to, so that nothing in it becomes root's
    local owner
    owner=$(stat -c %U "$root")
    if [ "$owner" = root ] || [ "$owner" = UNKNOWN ]; then "$@"; else runuser -u "$owner" -- "$@"; fi
}

path=${MESHDEMO_PATH:-$root/.venv/bin} # where meshagent and its Python are
[ -n "${MESHDEMO_PATH:-}" ] || [ -e "$root/.venv/ready" ] || as_owner make -C "$root" setup
path=$path:$root/.servers/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
for program in "${servers[@]}"; do
    PATH=$path command -v "$program" >/dev/null || { as_owner "$root/scripts/servers" "$store" && break; }
done

step() { # SCRIPT...: one of the long steps, which a signal to this script ends at once
    "$@" &
    echo $! >"$state/step.pid"
    wait $!
}

interrupted() {
    trap '' INT TERM HUP
    trap - EXIT
    printf '\nvm-demo: interrupted, taking everything away\n' >&2
    end_scripts step
    remove_all
    exit "$1"
}

left_standing() {
    [ "$1" = 0 ] || echo "vm-demo: it is left as it is, for a look; vm-demo/down.sh takes it away" >&2
}

mkdir -m 700 "$state" 2>/dev/null || fail "another one is just starting" "wait for it"
echo $$ >"$state/up.pid"
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
trap 'interrupted 129' HUP
trap 'left_standing $?' EXIT
echo "$path" >"$state/path"
network=${MESHDEMO_NETWORK:-$(unused_network)}
echo "$network" >"$state/network"

echo "Three VMs on $network.0/24, with $store on each. One moment."
make_network
for vm in "${vms[@]}"; do boot "$vm"; done
step "$here/prepare.sh" "$store"
step "$here/walk.sh" --store "$store" "${walk[@]}" || wrong=$?
cat <<WORDS

Set up and told in $((SECONDS - began)) s. It goes on running. To play:

  vm-demo/in vm-1                              a shell on vm-1, as root; the same for vm-2 and vm-3
  vm-demo/in vm-1 curl -s http://127.0.0.1:8080/
  vm-demo/in vm-2 tail -f /var/lib/meshagent/agent.log
  vm-demo/down.sh                              takes everything away
WORDS
exit "${wrong:-0}"
