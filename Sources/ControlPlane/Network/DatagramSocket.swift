import DataPlane
import Glibc

/// A non-blocking UDP socket.
struct DatagramSocket {
    enum Received {
        case datagram(count: Int, from: SocketAddress)
        case wouldBlock
    }

    let descriptor: Int32
    /// The port that the kernel chose, when 0 was asked for.
    let address: SocketAddress

    /// With a device nothing is taken from others.
    init(bind address: SocketAddress, device: String?) throws(SystemCallError) {
        let context = "UDP \(address)"
        let family = address.address.isIPv4 ? AF_INET : AF_INET6
        let descriptor = try check(
            "socket",
            Self.result(
                socket(
                    family,
                    Int32(SOCK_DGRAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue), 0)),
            context: context)
        do throws(SystemCallError) {
            if family == AF_INET6 {
                var one: Int32 = 1
                try check(
                    "IPV6_V6ONLY",
                    Self.result(setsockopt(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, &one, 4)))
            }
            if let device {
                try check(
                    "SO_BINDTODEVICE",
                    Self.result(
                        setsockopt(
                            descriptor, SOL_SOCKET, SO_BINDTODEVICE, device,
                            socklen_t(device.utf8.count))), context: device)
            }
            var storage = Self.native(address)
            let length = family == AF_INET ? MemoryLayout<sockaddr_in>.size : 28
            let bound = withUnsafePointer(to: &storage) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    Glibc.bind(descriptor, $0, socklen_t(length))
                }
            }
            try check("bind", Self.result(bound), context: context)
        } catch {
            Glibc.close(descriptor)
            throw error
        }
        self.descriptor = descriptor
        var storage = sockaddr_storage()
        var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
        withUnsafeMutablePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                _ = getsockname(descriptor, $0, &size)
            }
        }
        self.address = Self.address(storage)
    }

    func receive(
        into buffer: UnsafeMutableRawBufferPointer
    ) throws(SystemCallError) -> Received {
        var storage = sockaddr_storage()
        var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let count = withUnsafeMutablePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                // A datagram that is longer than the buffer is told by its true length.
                recvfrom(
                    descriptor, buffer.baseAddress, buffer.count, Int32(MSG_TRUNC), $0,
                    &size)
            }
        }
        if count >= 0 { return .datagram(count: count, from: Self.address(storage)) }
        if errno == EAGAIN || errno == EINTR { return .wouldBlock }
        throw SystemCallError(function: "recvfrom", errno: errno)
    }

    /// False: it was not taken, as a network may not take it.
    func send(_ datagram: [UInt8], to address: SocketAddress) -> Bool {
        var storage = Self.native(address)
        let length = address.address.isIPv4 ? MemoryLayout<sockaddr_in>.size : 28
        let sent = datagram.withUnsafeBytes { bytes in
            withUnsafePointer(to: &storage) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    sendto(
                        descriptor, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL),
                        $0, socklen_t(length))
                }
            }
        }
        return sent == datagram.count
    }

    /// Octets that may wait in it in each direction; the kernel gives what its limits allow.
    func setBuffers(_ octets: Int32) {
        var size = octets
        setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &size, 4)
        setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &size, 4)
    }

    func close() { _ = Glibc.close(descriptor) }

    private static func result(_ value: Int32) -> Int32 { value < 0 ? -errno : value }

    private static func native(_ address: SocketAddress) -> sockaddr_storage {
        var storage = sockaddr_storage()
        withUnsafeMutableBytes(of: &storage) { bytes in
            if address.address.isIPv4 {
                var native = sockaddr_in()
                native.sin_family = sa_family_t(AF_INET)
                native.sin_port = address.port.bigEndian
                native.sin_addr.s_addr = address.address.v4.bigEndian
                bytes.storeBytes(of: native, as: sockaddr_in.self)
            } else {
                var native = sockaddr_in6()
                native.sin6_family = sa_family_t(AF_INET6)
                native.sin6_port = address.port.bigEndian
                withUnsafeMutableBytes(of: &native.sin6_addr) { octets in
                    octets.storeBytes(of: address.address.high.bigEndian, as: UInt64.self)
                    octets.storeBytes(
                        of: address.address.low.bigEndian, toByteOffset: 8, as: UInt64.self)
                }
                bytes.storeBytes(of: native, as: sockaddr_in6.self)
            }
        }
        return storage
    }

    private static func address(_ storage: sockaddr_storage) -> SocketAddress {
        withUnsafeBytes(of: storage) { bytes in
            if Int32(storage.ss_family) == AF_INET {
                let native = bytes.load(as: sockaddr_in.self)
                return SocketAddress(
                    address: IPAddress(v4: UInt32(bigEndian: native.sin_addr.s_addr)),
                    port: UInt16(bigEndian: native.sin_port))
            }
            // Behind family, port and flow information.
            return SocketAddress(
                address: IPAddress(
                    high: UInt64(
                        bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)),
                    low: UInt64(
                        bigEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self))),
                port: UInt16(bigEndian: bytes.load(fromByteOffset: 2, as: UInt16.self)))
        }
    }
}
