# Read by walk.sh: prints commands and what they say, and keeps what was observed.
#
# After `types`: $said is what the command printed, $code how it ended.
steps=() wanted=() seen=()
bold='' plain=''
[ ! -t 1 ] || { bold=$'\e[1m' plain=$'\e[0m'; }
number=0 told=$SECONDS

chapter() { # TITLE, and words on stdin
    [ -z "${pause:-}" ] || [ $number = 0 ] || read -r -p "  (Enter)" </dev/tty
    number=$((number + 1))
    printf '\n%s%d. %s%s\n' "$bold" "$number" "$1" "$plain"
    cat
}

tell() { printf '%s\n' "$1"; }

types() { # VM LINE [GIVEN] [CODE]: run a line on a VM, with GIVEN as its input; it is to end with CODE (0)
    printf '\n  %s%s# %s%s\n' "$bold" "$1" "$2" "$plain"
    code=0
    said=$(on "$1" bash -c "$2" 2>&1 <<<"${3:-}") || code=$?
    [ -z "$said" ] || sed 's/^/    /' <<<"$said"
    [ "$code" = "${4:-0}" ] || saw "$2" "exit ${4:-0}" "exit $code"
}

starts() { # VM LINE: the same in the background; `heard` shows what it said
    printf '\n  %s%s# %s &%s\n' "$bold" "$1" "$2" "$plain"
    stream=$([ -d "$state" ] && mktemp -p "$state" || mktemp)
    on "$1" bash -c "$2" >"$stream" 2>&1 </dev/null &
    streaming=$!
}

until_heard() { # WORD: wait until it is in what the command in the background said
    local tries=100
    until grep -q "$1" "$stream" || [ $((tries -= 1)) = 0 ]; do sleep 0.1; done
}

heard() { # show what the command in the background said; $ended: whether it has ended (within 10 s)
    local tries=100
    while kill -0 "$streaming" 2>/dev/null && [ $((tries -= 1)) -gt 0 ]; do sleep 0.1; done
    kill -0 "$streaming" 2>/dev/null && ended=open || ended=ended
    said=$(cat "$stream")
    rm -f "$stream"
    printf '\n  %s(what the stream said)%s\n' "$bold" "$plain"
    sed 's/^/    /' <<<"$said"
}

until_true() { # VM LINE: wait until it succeeds there
    local tries=60
    until on "$1" bash -c "$2" >/dev/null 2>&1 </dev/null || [ $((tries -= 1)) = 0 ]; do sleep 0.25; done
}

saw() { # STEP EXPECTED OBSERVED
    steps+=("$1") wanted+=("$2") seen+=("$3")
}

counted() { tr -s " \n" " " <<<"$said" | sed "s/^ \| $//g"; } # what `uniq -c` said, on one line

go_on_if_right() { # what comes needs what was
    [ "${wanted[*]}" = "${seen[*]}" ] || { closing; exit 1; }
}

closing() { # everything observed; fails when something was not right
    local at right=0 mark
    printf '\n%sWhat was observed%s\n\n' "$bold" "$plain"
    for at in "${!steps[@]}"; do
        mark=WRONG
        [ "${wanted[at]}" != "${seen[at]}" ] || { mark=ok right=$((right + 1)); }
        printf '  %-6s %-46s %-36s' "$mark" "${steps[at]}" "${wanted[at]}"
        [ $mark = ok ] && echo || printf ' but: %s\n' "${seen[at]}"
    done
    printf '\n%d of %d right, in %d s.\n' "$right" "${#steps[@]}" $((SECONDS - told))
    [ "$right" = "${#steps[@]}" ]
}
