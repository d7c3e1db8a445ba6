"""What tests of names share: the resolver that was there before, lookups as applications do them, the command.

Run as a module, it is that resolver alone, on the port given, and prints what it is asked.
"""

from __future__ import annotations

import asyncio
import os
import sys

import dns.message
import dns.rdatatype
import dns.rrset

LOOK_UP = """
import socket, sys
for name in sys.argv[1:]:
    try:
        print(*sorted({found[4][0] for found in socket.getaddrinfo(name, 80)}))
    except OSError:
        print()
"""


class Elsewhere(asyncio.DatagramProtocol):
    """The resolver that this host asked before: it answers every A query, and keeps what it was asked."""

    def __init__(self, *, tell=False):
        self.asked = []
        self.tell = tell

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        query = dns.message.from_wire(data)
        self.asked.append(query.question[0].name.to_text().lower())
        if self.tell:
            print(self.asked[-1], flush=True)
        answer = dns.message.make_response(query)
        if query.question[0].rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(query.question[0].name, 5, "IN", "A", "9.0.0.7"))
        self.transport.sendto(answer.to_wire(), addr)


async def cli(host, *words):
    """Run `meshagent` against the host's agent; what it says."""
    environment = {**os.environ, "MESHAGENT_API": host.api}
    made = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "meshagent", *words, stdout=-1, stderr=-2, env=environment
    )
    said = (await made.communicate())[0].decode()
    assert made.returncode == 0, said
    return said


async def _answer(port):
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: Elsewhere(tell=True), local_addr=("127.0.0.1", port))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_answer(int(sys.argv[1])))
