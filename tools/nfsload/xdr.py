"""XDR (RFC 4506), as far as NFS needs it."""
import struct

WORD = struct.Struct(">I")


def opaque(data):
    return WORD.pack(len(data)) + data + bytes(-len(data) % 4)


def string(text):
    return opaque(text.encode())


class ProtocolError(Exception):
    """A reply that is not what the specification says."""


class Reader:
    """Takes a reply apart; raises ProtocolError where it is too short."""
    __slots__ = ("data", "at")

    def __init__(self, data, at=0):
        self.data, self.at = data, at

    def take(self, length):
        start, self.at = self.at, self.at + length
        if self.at > len(self.data):
            raise ProtocolError(f"reply ends at octet {len(self.data)}, {self.at} are needed")
        return self.data[start:self.at]

    def unpack(self, layout):
        return layout.unpack(self.take(layout.size))

    def number(self):
        return WORD.unpack(self.take(4))[0]

    def long(self):
        return int.from_bytes(self.take(8), "big")

    def opaque(self, most=None):
        length = self.number()
        if most is not None and length > most:
            raise ProtocolError(f"opaque of {length} octets, at most {most} are allowed")
        value = self.take(length)
        if any(self.take(-length % 4)):
            raise ProtocolError("padding is not zero")
        return bytes(value)

    def end(self):
        if self.at != len(self.data):
            raise ProtocolError(f"{len(self.data) - self.at} octets behind the reply")
