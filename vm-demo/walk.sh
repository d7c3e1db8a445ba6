#!/usr/bin/env bash
# The story: commands as a person types them, what they print, and at the end what was to be seen and what was.
#
# usage: vm-demo/walk.sh --store consul|etcd [--pause]       by up.sh, or by hand on real VMs (README.md)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/places.sh"
. "$here/telling.sh"

store='' pause=''
while [ $# -gt 0 ]; do
    case $1 in
    --store) store=$2 && shift 2 ;;
    --pause) pause=yes && shift ;;
    *) sed -n 's/^# \?//p' "$0" | sed -n 3p >&2 && exit 2 ;;
    esac
done
case $store in
consul)
    url=consul://127.0.0.1:8500
    init="meshagent init --store $url --store-token-file /var/lib/store.admin"
    ;;
etcd)
    members=$(for vm in "${vms[@]}"; do printf '%s:2379,' "$(address "$vm")"; done)
    url=etcd://${members%,}
    init="MESHAGENT_STORE_USERNAME=root MESHAGENT_STORE_PASSWORD_FILE=/var/lib/store.admin meshagent init --store $url"
    ;;
*) fail "which store?" "--store consul, or --store etcd" ;;
esac

# Of several networks that a real VM may have, this one is the authority's.
[ -z "${MESHDEMO_SSH:-}" ] || init+=" --address $(address vm-1):8443"

chapter "A mesh, with a signing authority on vm-1. It prints a join line for each other VM, good once." <<'WORDS'
The file is the administrator's credential of the store. It is used here and kept nowhere: each host gets one that may
do no more than its own services need.
WORDS
types vm-1 "$init --services web --join vm-2=api --join vm-3=api,db --start"
lines=$(grep '^mesh1\.' <<<"$said" || true)
saw "join lines printed" 2 "$(grep -c . <<<"$lines")"

chapter "The other two join: paste the line." <<'WORDS'
The host checks the authority by the line before it sends anything, makes its own key, and starts its agent and Envoy.
WORDS
types vm-2 "meshagent join --store $url --start" "$(sed -n 1p <<<"$lines")"
agent=$(sed -n 's/.*the agent runs (pid \([0-9]*\).*/\1/p' <<<"$said")
saw "vm-2 may run" "api" "$(sed -n 's/.*may run //p' <<<"$said")"
types vm-3 "meshagent join --store $url --start" "$(sed -n 2p <<<"$lines")"
saw "vm-3 may run" "api, db" "$(sed -n 's/.*may run //p' <<<"$said")"

chapter "Three services: web speaks HTTP and calls api by gRPC, which calls db by TCP." <<'WORDS'
The applications run already and listen on loopback alone. A few lines of YAML each register them.
WORDS
types vm-3 "meshagent up services/db.yaml"
types vm-2 "cat services/api.yaml; meshagent up services/api.yaml"
types vm-1 "meshagent up services/web.yaml"
go_on_if_right

chapter "Nobody may call anybody until you say so." <<'WORDS'
You call web, web calls api, and its sidecar refuses: the answer says who asked whom, and why not.
WORDS
types vm-1 "curl -s -d name=ann -d text=hello http://127.0.0.1:8080/"
saw "web calls api before any intention" "PERMISSION_DENIED" "$(grep -o PERMISSION_DENIED <<<"$said" || echo "$said")"
saw "the reason" "intention" "$(sed -n 's/.*"x-mesh-refused": "\([a-z-]*\)".*/\1/p' <<<"$said")"
types vm-1 "meshagent explain web api" '' 5
saw "explain says why" "default is deny" "$(grep -o 'default is deny' <<<"$said" || echo "$said")"

chapter "Two intentions, and the same call." <<'WORDS'
WORDS
types vm-1 "meshagent intention allow web api --reason 'the guestbook' --wait"
types vm-1 "meshagent intention allow api db --reason 'the guestbook' --wait"
types vm-1 "curl -s -d name=ann -d text=hello http://127.0.0.1:8080/"
saw "the same call, allowed" "hello" "$(sed -n 's/.*"text": "\([a-z]*\)".*/\1/p' <<<"$said")"
types vm-1 "curl -s http://127.0.0.1:8080/api"
saw "who called api, by its certificate" "spiffe://mesh.internal/svc/web" \
    "$(sed -n 's/.*"caller": "\([^"]*\)".*/\1/p' <<<"$said")"

chapter "On the wire: mutual TLS." <<'WORDS'
What vm-2 shows to whoever knocks; and what it does with a knock that has no certificate of its own.
WORDS
knock="openssl s_client -connect vm-2:21000 -servername web.api.mesh.internal -alpn h2"
types vm-1 "$knock </dev/null 2>/dev/null | openssl x509 -noout -issuer -dates -ext subjectAltName"
saw "api's certificate" "URI:spiffe://mesh.internal/svc/api" "$(grep -o 'URI:[^ ,]*' <<<"$said" || echo none)"
types vm-1 "(sleep 1; echo x) | $knock -ign_eof 2>&1 | grep -o 'alert certificate required\|alert number 116' | head -n 1"
saw "without a certificate" "refused" "$([ -n "$said" ] && echo refused || echo served)"
types vm-1 "curl -sS http://vm-2:7000/" '' 7
saw "around the sidecar" "no way" "$(grep -q "Couldn't connect\|refused" <<<"$said" && echo no way || echo "$said")"

chapter "A canary: version 2 of api on vm-3, for testers and for one call of five." <<'WORDS'
WORDS
types vm-3 "meshagent up services/api-v2.yaml"
types vm-1 "cat policy/canary.yaml; meshagent policy apply -f policy/canary.yaml --wait"
until_true vm-1 "curl -s -H 'x-canary: true' http://127.0.0.1:8080/api | grep -q v2"
types vm-1 "curl -s 'http://127.0.0.1:8080/api?[1-200]' | grep -o 'v[12]' | sort | uniq -c"
second=$(awk '$2 == "v2" { print $1 }' <<<"$said")
saw "calls of 200 that v2 got (a fifth: 15 to 70)" "yes" "$([ "${second:-0}" -ge 15 ] && [ "$second" -le 70 ] && echo yes || echo "$second")"
types vm-1 "curl -s -H 'x-canary: true' 'http://127.0.0.1:8080/api?[1-20]' | grep -o 'v[12]' | sort | uniq -c"
saw "calls of 20 testers that v2 got" "20 v2" "$(counted)"

chapter "A deny ends what is open, not only what comes next." <<'WORDS'
web has a stream of api open, on which new entries come.
WORDS
starts vm-1 "curl -sN http://127.0.0.1:8080/watch"
until_heard version
types vm-1 "curl -s -d name=bob -d text=streamed http://127.0.0.1:8080/"
until_heard streamed
types vm-1 "meshagent intention deny web api --wait"
heard
saw "an entry while the stream was open" "streamed" "$(grep -o streamed <<<"$said" | head -n 1)"
saw "the stream after the deny" "ended" "$ended"
types vm-1 "meshagent intention allow web api --wait"
until_true vm-1 "curl -sf http://127.0.0.1:8080/"

chapter "kill -9 for vm-2's agent: Envoy goes on." <<'WORDS'
WORDS
types vm-2 "kill -9 $agent"
types vm-1 "curl -s -o /dev/null -w '%{http_code}\n' 'http://127.0.0.1:8080/?[1-100]' | sort | uniq -c"
saw "100 calls without vm-2's agent" "100 200" "$(counted)"
types vm-2 "meshagent join --start"
saw "the next agent" "runs" "$(grep -o 'the agent runs' <<<"$said" | sed 's/the agent //')"

chapter "No store at all: the last policy holds." <<'WORDS'
WORDS
for vm in "${vms[@]}"; do types "$vm" "vm/store stop"; done
types vm-1 "curl -s -o /dev/null -w '%{http_code}\n' 'http://127.0.0.1:8080/?[1-100]' | sort | uniq -c"
saw "100 calls without a store" "100 200" "$(counted)"
types vm-1 "meshagent intention deny web api" '' 4
saw "a change without a store" "refused" "$([ "$code" = 4 ] && echo refused || echo taken)"
tell "The store comes back, and changes with it:"
everywhere vm/store start
for vm in "${vms[@]}"; do until_true "$vm" "curl -s http://127.0.0.1:9102/metrics | grep -q '^meshagent_store_ok 1'"; done
types vm-1 "meshagent intention allow web api --reason 'the store is back' --wait"
saw "a change when the store is back" "applied" "$(grep -o applied <<<"$said" | head -n 1)"

chapter "What is going on?" <<'WORDS'
WORDS
types vm-1 "meshagent explain web api"
saw "explain" "allowed" "$(grep -o allowed <<<"$said" | head -n 1)"
types vm-1 "meshagent services --all"
types vm-1 "meshagent status"

closing
