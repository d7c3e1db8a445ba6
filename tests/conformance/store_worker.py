"""What another process does to a store: `store_worker.py URL JOB ROOT [NUMBER [TOKEN_FILE [USER PASSWORD_FILE]]]`.

It prints `ready`, then its result:

count   add one to the counter NUMBER times, each by a commit that expects what was read
churn   write two keys in one commit, for ever
hold    bind a key to a lease of NUMBER seconds and renew it for ever
watch   mirror the tree until its key `end` is there, and print the mirror as JSON
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from datetime import timedelta
from pathlib import Path

from meshagent.errors import Conflict
from meshagent.store import open_store
from meshagent.store.access import Access
from meshagent.store.base import Expect, Put, Store
from tests.conformance.mirror import Mirror, values_of


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def count(store: Store, root: str, number: str) -> None:
    key = f"{root}counter"
    done = 0
    while done < int(number):
        entry = (await store.read(key)).entries.get(key)
        following = str(int(entry.value) + 1 if entry else 1).encode()
        try:
            await store.commit([Expect(key, entry.revision if entry else 0), Put(key, following)])
        except Conflict:
            continue
        done += 1


async def churn(store: Store, root: str, _: str) -> None:
    for number in itertools.count():
        value = str(number).encode()
        await store.commit([Put(f"{root}left", value), Put(f"{root}right", value), Put(f"{root}n/{number}", value)])


async def hold(store: Store, root: str, seconds: str) -> None:
    lease = await store.lease(timedelta(seconds=float(seconds)))
    await store.commit([Put(f"{root}held", b"", lease=lease.id)])
    while True:
        await asyncio.sleep(float(seconds) / 4)
        await lease.renew()


async def watch(store: Store, root: str, _: str) -> None:
    start = await store.read(root)
    say("watching")
    mirror = Mirror(values_of(start))
    await mirror.follow(store, [root], after=start.revision, until=lambda mirror: f"{root}end" in mirror.values)
    say(json.dumps({key: value.decode() for key, value in mirror.values.items()}))


async def main(
    url: str, job: str, root: str, number: str = "0", token_file: str = "", user: str = "", password_file: str = ""
) -> None:
    token, password = (Path(file) if file else None for file in (token_file, password_file))
    store = await open_store(url, Access(token_file=token, username=user, password_file=password))
    say("ready")
    await {"count": count, "churn": churn, "hold": hold, "watch": watch}[job](store, root, number)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
