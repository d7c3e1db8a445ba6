#!/usr/bin/env bash
# Takes away every trace of the demo: processes, namespaces, bridge, files. Also after an up.sh that was interrupted, or
# that is still at it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/places.sh"
. "$here/namespaces.sh"

[ "$(id -u)" = 0 ] || fail "removing namespaces needs root" "sudo $0"
end_scripts up step
remove_all
echo "vm-demo: nothing of it is left"
