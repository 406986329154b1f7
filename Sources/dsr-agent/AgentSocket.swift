import Glibc
import StorageProtocols

/// A numeric address and a port.
struct Destination {
    var address: String
    var port: UInt16
    var isIPv4: Bool
    /// No port was written.
    var hasDefaultPort: Bool

    /// `10.20.0.1`, `10.20.0.1:7411`, `fd00::1` or `[fd00::1]:7411`.
    init?(_ text: String) {
        var host = Substring(text)
        port = Announcement.defaultPort
        hasDefaultPort = true
        let colons = text.count { $0 == ":" }
        if text.hasPrefix("[") || colons == 1 {
            if let colon = text.lastIndex(of: ":"), text.first != "[" || text[..<colon].last == "]"
            {
                let digits = text[text.index(after: colon)...]
                guard digits.first?.isNumber == true, let number = UInt16(digits), number > 0
                else { return nil }
                host = text[..<colon]
                port = number
                hasDefaultPort = false
            }
            if host.hasPrefix("[") {
                guard host.hasSuffix("]"), host.contains(":") else { return nil }
                host = host.dropFirst().dropLast()
            }
        }
        address = String(host)
        var v4 = in_addr()
        var v6 = in6_addr()
        isIPv4 = inet_pton(AF_INET, address, &v4) == 1
        guard isIPv4 || inet_pton(AF_INET6, address, &v6) == 1 else { return nil }
    }

    /// Calls `body` with the native form.
    func withNative<Result>(
        port: UInt16, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result
    ) -> Result {
        if isIPv4 {
            var native = sockaddr_in()
            native.sin_family = sa_family_t(AF_INET)
            native.sin_port = port.bigEndian
            inet_pton(AF_INET, address, &native.sin_addr)
            return withUnsafePointer(to: &native) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
        }
        var native = sockaddr_in6()
        native.sin6_family = sa_family_t(AF_INET6)
        native.sin6_port = port.bigEndian
        inet_pton(AF_INET6, address, &native.sin6_addr)
        return withUnsafePointer(to: &native) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_in6>.size))
            }
        }
    }
}

/// A UDP socket to the DSR.
final class AgentSocket {
    private let descriptor: Int32
    private let destination: Destination

    init(to destination: Destination, from own: Destination?) throws(AgentFailure) {
        self.destination = destination
        descriptor = socket(
            destination.isIPv4 ? AF_INET : AF_INET6,
            Int32(SOCK_DGRAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else {
            throw AgentFailure("no socket: \(String(cString: strerror(errno)))")
        }
        guard let own else { return }
        let result = own.withNative(port: 0) { bind(descriptor, $0, $1) }
        guard result == 0 else {
            let reason = String(cString: strerror(errno))
            close(descriptor)
            throw AgentFailure("cannot announce from \(own.address): \(reason)")
        }
    }

    deinit { close(descriptor) }

    /// Why it was not sent; nil: it was. Not connected: an error of an earlier datagram does not keep back a
    /// later one, and a route that comes late is found.
    func send(_ datagram: [UInt8]) -> String? {
        let sent = destination.withNative(port: destination.port) { address, length in
            datagram.withUnsafeBytes {
                sendto(
                    descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL), address,
                    length)
            }
        }
        guard sent < 0 else { return nil }
        return "cannot send to \(destination.address): \(String(cString: strerror(errno)))"
    }
}
