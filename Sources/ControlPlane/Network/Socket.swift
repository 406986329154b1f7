import CLinux
public import DataPlane
import Glibc

/// An address and a port.
public struct SocketAddress: Hashable, Sendable, CustomStringConvertible {
    public var address: IPAddress
    public var port: UInt16
    public init(address: IPAddress, port: UInt16) {
        self.address = address
        self.port = port
    }
    /// `10.0.0.1:3260` or `[fd00::1]:3260`.
    public var description: String {
        address.isIPv4 ? "\(address):\(port)" : "[\(address)]:\(port)"
    }

    var native: dsr_address {
        var result = dsr_address()
        result.family = address.isIPv4 ? 4 : 6
        result.port = port
        withUnsafeMutableBytes(of: &result.octets) { bytes in
            if address.isIPv4 {
                bytes.storeBytes(of: address.v4.bigEndian, as: UInt32.self)
            } else {
                bytes.storeBytes(of: address.high.bigEndian, toByteOffset: 0, as: UInt64.self)
                bytes.storeBytes(of: address.low.bigEndian, toByteOffset: 8, as: UInt64.self)
            }
        }
        return result
    }

    init(_ native: dsr_address) {
        port = native.port
        address = withUnsafeBytes(of: native.octets) { bytes in
            native.family == 4
                ? IPAddress(v4: UInt32(bigEndian: bytes.load(as: UInt32.self)))
                : IPAddress(
                    high: UInt64(
                        bigEndian: bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self)),
                    low: UInt64(
                        bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)))
        }
    }
}

struct ListenOptions {
    /// Bound to this device: nothing is accepted from others.
    var device: String
    var backlog: Int
}

struct ConnectOptions {
    var bind: SocketAddress
    /// TCP_MAXSEG: without the client's MSS, full segments of the server die at a client with a small MTU.
    var maximumSegment: Int
    /// TCP_WINDOW_CLAMP before connect: makes the kernel announce the client's own window scale.
    var windowClamp: Int
    var device: String
}

struct AcceptedSocket {
    var descriptor: Int32
    var local: SocketAddress
    var remote: SocketAddress
}

/// Non-blocking TCP sockets.
enum Socket {
    enum Received {
        case bytes(Int)
        case end
        case wouldBlock
    }

    static func listen(
        _ address: SocketAddress, options: ListenOptions
    ) throws(SystemCallError) -> Int32 {
        var native = address.native
        return try check(
            "listen", dsr_listen(&native, options.device, Int32(options.backlog)),
            context: "\(address)")
    }

    /// Nil when no connection waits.
    static func accept(_ listener: Int32) throws(SystemCallError) -> AcceptedSocket? {
        var local = dsr_address()
        var remote = dsr_address()
        let descriptor = dsr_accept(listener, &local, &remote)
        // A connection that broke off before it was accepted is none.
        if descriptor == -EAGAIN || descriptor == -ECONNABORTED { return nil }
        return AcceptedSocket(
            descriptor: try check("accept", descriptor), local: SocketAddress(local),
            remote: SocketAddress(remote))
    }

    /// Starts a connection; writable when it is up or has failed.
    static func connect(
        to address: SocketAddress, options: ConnectOptions
    ) throws(SystemCallError) -> Int32 {
        var local = options.bind.native
        var remote = address.native
        return try check(
            "connect",
            dsr_connect(
                &local, &remote, options.device, Int32(options.maximumSegment),
                Int32(options.windowClamp)), context: "\(address)")
    }

    /// Why a connection failed, nil while it is being made or is up.
    static func connectFailure(_ descriptor: Int32) -> String? {
        let code = dsr_socket_error(descriptor)
        return code == 0 ? nil : String(cString: strerror(code))
    }

    static func receive(
        _ descriptor: Int32, into buffer: UnsafeMutableRawBufferPointer
    ) throws(SystemCallError) -> Received {
        guard let base = buffer.baseAddress else { return .wouldBlock }
        let count = dsr_receive(descriptor, base, buffer.count)
        if count == -Int(EAGAIN) { return .wouldBlock }
        let received = try check("recv", count)
        return received == 0 ? .end : .bytes(received)
    }

    /// As `receive`, into two buffers: the second gets what the first has no room for.
    static func receive(
        _ descriptor: Int32, into first: UnsafeMutableRawBufferPointer,
        then second: UnsafeMutableRawBufferPointer
    ) throws(SystemCallError) -> Received {
        guard let start = first.baseAddress, let rest = second.baseAddress else {
            return .wouldBlock
        }
        let count = dsr_receive_two(descriptor, start, first.count, rest, second.count)
        if count == -Int(EAGAIN) { return .wouldBlock }
        let received = try check("readv", count)
        return received == 0 ? .end : .bytes(received)
    }

    /// Octets taken, 0 when the socket takes none now.
    static func send(
        _ descriptor: Int32, _ buffer: UnsafeRawBufferPointer
    ) throws(SystemCallError) -> Int {
        guard let base = buffer.baseAddress, buffer.count > 0 else { return 0 }
        let count = dsr_send(descriptor, base, buffer.count)
        if count == -Int(EAGAIN) { return 0 }
        return try check("send", count)
    }

    static func shutdownWrite(_ descriptor: Int32) { _ = dsr_shutdown_write(descriptor) }
    static func setWindowClamp(_ descriptor: Int32, _ clamp: Int) {
        _ = dsr_set_window_clamp(descriptor, Int32(clamp))
    }
    /// Closing sends RST.
    static func setReset(_ descriptor: Int32) { _ = dsr_set_reset(descriptor) }
    static func close(_ descriptor: Int32) { _ = Glibc.close(descriptor) }

    /// Octets received and not read (SIOCINQ).
    static func receiveQueue(_ descriptor: Int32) throws(SystemCallError) -> Int {
        Int(try check("SIOCINQ", dsr_receive_queue(descriptor)))
    }
    /// Octets sent and not acknowledged (SIOCOUTQ).
    static func sendQueue(_ descriptor: Int32) throws(SystemCallError) -> Int {
        Int(try check("SIOCOUTQ", dsr_send_queue(descriptor)))
    }
}

/// What TCP_INFO says of a connection.
struct TCPInfo {
    var isEstablished: Bool
    /// The handshake goes on.
    var isConnecting: Bool
    /// The remote end has sent its FIN already.
    var isHalfClosed: Bool
    var usesTimestamps: Bool
    var usesSACK: Bool
    var usesWindowScale: Bool
    /// Scale announced by the remote end, and by us.
    var sendScale: UInt8
    var receiveScale: UInt8
    var bytesReceived: UInt64
    var roundTripMicroseconds: UInt32

    init(descriptor: Int32) throws(SystemCallError) {
        var info = dsr_tcp_info()
        try check("TCP_INFO", dsr_tcp_info_read(descriptor, &info))
        isEstablished = info.state == 1
        isConnecting = info.state == 2
        isHalfClosed = info.state == 8
        usesTimestamps = info.timestamps != 0
        usesSACK = info.sack != 0
        usesWindowScale = info.window_scale != 0
        sendScale = info.send_scale
        receiveScale = info.receive_scale
        bytesReceived = info.bytes_received
        roundTripMicroseconds = info.rtt_us
    }
}

/// What the client's SYN offered (TCP_SAVED_SYN).
struct SavedSYN {
    var initialSequence: UInt32
    var maximumSegment: UInt16?

    init(descriptor: Int32) throws(SystemCallError) {
        var bytes = [UInt8](repeating: 0, count: 256)
        let count = Int(
            try check("TCP_SAVED_SYN", dsr_saved_syn(descriptor, &bytes, Int32(bytes.count))))
        bytes.removeLast(bytes.count - min(count, bytes.count))
        guard let syn = SavedSYN(bytes) else {
            throw SystemCallError(function: "TCP_SAVED_SYN", errno: EINVAL, context: "\(count)")
        }
        self = syn
    }

    /// Parses an IP header and a TCP header; nil when they are not whole.
    init?(_ bytes: [UInt8]) {
        guard let first = bytes.first else { return nil }
        let offset = first >> 4 == 4 ? Int(first & 15) * 4 : 40
        guard bytes.count >= offset + 20 else { return nil }
        let segment = bytes[offset...]
        initialSequence = segment.dropFirst(4).prefix(4).reduce(0) { $0 << 8 | UInt32($1) }
        let end = min(bytes.count, offset + Int(bytes[offset + 12] >> 4) * 4)
        var position = offset + 20
        while position < end, bytes[position] != 0 {
            if bytes[position] == 1 {
                position += 1
                continue
            }
            guard position + 1 < end, bytes[position + 1] >= 2 else { break }
            if bytes[position] == 2, position + 3 < end {
                maximumSegment = UInt16(bytes[position + 2]) << 8 | UInt16(bytes[position + 3])
            }
            position += Int(bytes[position + 1])
        }
    }
}
