"""Idle memory a connection of nchan, and connects a second: as many sockets as `CONNECTIONS`, opened one after the other on
64 lanes. Called by benches/peers with the port and nginx's worker."""

import asyncio
import os
import sys
import time

PORT, PID = int(sys.argv[1]), sys.argv[2]
COUNT = int(os.environ.get("CONNECTIONS", "10000"))
HANDSHAKE = (
    "GET /subscribe?id=user{n} HTTP/1.1\r\nHost: nchan\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def pss_kib():
    with open(f"/proc/{PID}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))


async def main():
    numbers, held = iter(range(COUNT)), []

    async def lane():
        for n in numbers:
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT, local_addr=(f"127.0.1.{n % 4 + 1}", 0))
            writer.write(HANDSHAKE.format(n=n).encode())
            await reader.readuntil(b"\r\n\r\n")
            held.append((reader, writer))

    before, begun = pss_kib(), time.monotonic()
    await asyncio.gather(*(lane() for _ in range(64)))
    took = time.monotonic() - begun
    await asyncio.sleep(2)
    print(f"nchan: {COUNT} sockets, {(pss_kib() - before) / COUNT:.2f} KiB each, {COUNT / took:.0f} connects/s")


asyncio.run(main())
