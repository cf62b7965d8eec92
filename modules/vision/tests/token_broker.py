"""An edge hub's door: TLS, and CONNECT is let in only with a token that has not ended.

    python token_broker.py CERTIFICATE KEY BEHIND AHEAD   # prints its port, then a line for each CONNECT

BEHIND is the port of the broker that the connections let in are handed on to. The first two CONNECTs meet a clock that
is AHEAD seconds before everybody else's, as that of a device without a battery may be. A line is the return code and when
the token ends. Standard library only.
"""

import socket
import ssl
import sys
import threading
import time
import urllib.parse


def packet(stream):
    """One MQTT packet: its head and its body."""
    head = stream.read(1)
    length, shift = 0, 0
    while True:
        byte = stream.read(1)
        head += byte
        length |= (byte[0] & 127) << shift
        shift += 7
        if byte[0] < 128:
            return head, stream.read(length)


def password(body):
    """The last field of a CONNECT: name of the protocol, level, flags, keep-alive, then client, user, password."""
    fields, at = [], 2 + int.from_bytes(body[:2], "big") + 4
    while at < len(body):
        length = int.from_bytes(body[at : at + 2], "big")
        fields.append(body[at + 2 : at + 2 + length])
        at += 2 + length
    assert len(fields) == 3, fields
    return fields[2].decode()


def copy(source, sink):
    try:
        while part := source.recv(65536):
            sink.sendall(part)
    except OSError:
        pass
    # Both ends, so that the other direction ends too.
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def main():
    certificate, key, behind, ahead = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    met = 0
    while True:
        plain, _ = listener.accept()
        try:
            client = context.wrap_socket(plain, server_side=True)
        except OSError:
            continue
        # Unbuffered, so that what follows CONNECT stays in the socket.
        head, body = packet(client.makefile("rb", buffering=0))
        token = urllib.parse.parse_qs(password(body).removeprefix("SharedAccessSignature "))
        clock = time.time() + (int(ahead) if met < 2 else 0)
        met += 1
        code = 0 if int(token["se"][0]) > clock else 5
        print(code, token["se"][0], flush=True)
        if code:
            client.sendall(bytes([0x20, 2, 0, code]))
            client.close()
            continue
        server = socket.create_connection(("127.0.0.1", int(behind)))
        server.sendall(head + body)
        for ends in ((client, server), (server, client)):
            threading.Thread(target=copy, args=ends, daemon=True).start()


main()
