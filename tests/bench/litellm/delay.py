"""A server that is some milliseconds away, without a second machine: a TUN device whose packets come back with sender and
receiver exchanged, each a while after it was sent. Who connects to FAR reaches what listens on NEAR, through the kernel's
own TCP from end to end. Sums over the addresses stay what they were, so no checksum changes. Needs a network namespace
of its own, as root in it.

  delay.py MILLISECONDS   for each direction; prints a line once packets pass
"""

import collections
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

NEAR, FAR = "10.77.0.1", "10.77.0.2"
DEVICE = "mcpauth-delay"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SENDER, RECEIVER = slice(12, 16), slice(16, 20)


def opened() -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    # kube-apiserver does not start where there is no default route. Whoever goes that way meets this machine again.
    route = ["route", "add", "default", "via", FAR]
    for arguments in (["address", "add", f"{NEAR}/24", "dev", DEVICE], ["link", "set", DEVICE, "up"], route):
        subprocess.run(["ip", *arguments], check=True)
    return device


def returned(packet: bytes) -> bytes | None:
    """The packet on its way back. Of IPv6 there are only the kernel's own questions for routers.

    >>> returned(bytes([0x45]) + bytes(11) + b"near" + b"far." + b"rest")[12:]
    b'far.nearrest'
    >>> returned(bytes([0x60]) + bytes(39)) is None
    True
    """
    if packet[0] >> 4 != 4:
        return None
    return packet[:12] + packet[RECEIVER] + packet[SENDER] + packet[20:]


def run(delay: float) -> None:
    device = opened()
    print(f"{FAR} is {1000 * delay:.0f} ms away in each direction", flush=True)
    waiting: collections.deque[tuple[float, bytes]] = collections.deque()
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        if select.select([device], [], [], timeout)[0]:
            packet = returned(os.read(device, 65536))
            if packet:
                waiting.append((time.monotonic() + delay, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            os.write(device, waiting.popleft()[1])


if __name__ == "__main__":
    run(float(sys.argv[1]) / 1000)
