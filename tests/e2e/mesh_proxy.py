"""Stands for the proxy of a service mesh with strict mutual TLS, behind the rules of `istio-init`: takes TLS alone for every
port of the pod (15006), passes on what the pod sends (15001), and asks LiteLLM for the kubelet as Istio's agent does (15020).
"""

import asyncio
import datetime
import os
import signal
import socket
import ssl
import struct

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

SO_ORIGINAL_DST = 80
# Istio's proxy goes on for a while too when its pod ends, as LiteLLM does.
DRAIN_SECONDS = 30


def tls() -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mesh")])
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    with open("/tmp/mesh.pem", "wb") as file:
        file.write(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        file.write(certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("/tmp/mesh.pem")
    return context


def meant(writer: asyncio.StreamWriter) -> tuple[str, int]:
    connection = writer.get_extra_info("socket")
    port, address = struct.unpack("!2xH4s8x", connection.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
    return socket.inet_ntoa(address), port


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while piece := await source.read(65536):
            target.write(piece)
            await target.drain()
    except OSError:
        pass
    finally:
        target.close()


async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    try:
        upstream = await asyncio.open_connection(host, port)
    except OSError:
        writer.close()
        return
    await asyncio.gather(copy(reader, upstream[1]), copy(upstream[0], writer))


async def inbound(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await join(reader, writer, "127.0.0.1", meant(writer)[1])


async def outbound(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await join(reader, writer, *meant(writer))


async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await join(reader, writer, "127.0.0.1", 4000)


async def main() -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: loop.call_later(DRAIN_SECONDS, os._exit, 0))
    servers = [
        await asyncio.start_server(inbound, "0.0.0.0", 15006, ssl=tls()),
        await asyncio.start_server(outbound, "0.0.0.0", 15001),
        await asyncio.start_server(agent, "0.0.0.0", 15020),
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
