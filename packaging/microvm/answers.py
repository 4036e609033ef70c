"""answers.c once more, by the bundle's interpreter: the least that a start in Python can take.

What lies between this and the server is the server's own; what lies between answers.c and this is
the interpreter's, in an emulated machine above all.
"""

import _socket
import fcntl
import struct
import time

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
IFF_UP = 1


def main() -> None:
    """Answer every request with the same 200."""
    with_address = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    ask(with_address, SIOCSIFADDR, "10.0.2.15")
    ask(with_address, SIOCSIFNETMASK, "255.255.255.0")
    asked = fcntl.ioctl(with_address.fileno(), SIOCGIFFLAGS, struct.pack("=16sh22x", b"eth0", 0))
    (flags,) = struct.unpack("=16xh22x", asked)
    fcntl.ioctl(
        with_address.fileno(), SIOCSIFFLAGS, struct.pack("=16sh22x", b"eth0", flags | IFF_UP)
    )
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.bind(("0.0.0.0", 8080))
    listener.listen(64)
    while True:
        fd, _ = listener._accept()
        client = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, fd)
        if client.recv(4096):
            client.sendall(ANSWER)
        client.close()


def ask(sock: _socket.socket, what: int, address: str) -> None:
    """Set an address of the device, which may still be on its way here."""
    place = struct.pack("=HH4s", _socket.AF_INET, 0, _socket.inet_aton(address))
    while True:
        try:
            fcntl.ioctl(sock.fileno(), what, struct.pack("=16s8s16x", b"eth0", place))
            return
        except OSError:
            time.sleep(0.01)


main()
