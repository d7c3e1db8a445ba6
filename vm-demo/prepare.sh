#!/usr/bin/env bash
# What is there before the mesh: a store on three VMs that guards itself, and the guestbook's three parts.
#
# usage: vm-demo/prepare.sh consul|etcd
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/places.sh"

everywhere vm/store start "$1"
on vm-1 vm/store guard
if [ "$1" = consul ]; then
    for vm in "${vms[@]}"; do on "$vm" vm/store token | on vm-1 vm/store admit "$vm"; done
fi
everywhere vm/apps
