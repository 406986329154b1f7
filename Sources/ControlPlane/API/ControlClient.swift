public import Foundation
import Glibc

/// A blocking client of the API: one request for each connection.
public struct ControlClient: Sendable {
    /// Nobody answers on the socket.
    public struct Unreachable: Error, CustomStringConvertible {
        public var description: String
    }
    /// The daemon refused.
    public struct Refused: Error {
        public var status: Int
        public var model: ErrorModel
    }

    /// Where a daemon listens that is told nothing else.
    public static let defaultPath = "/run/dsr/dsrd.sock"

    public let path: String
    /// Seconds.
    public let timeout: Int

    public init(path: String, timeout: Int = 30) {
        self.path = path
        self.timeout = timeout
    }

    /// Body of the answer.
    @discardableResult
    public func request(_ method: String, _ target: String, body: Data? = nil) throws -> Data {
        let descriptor = try open()
        defer { close(descriptor) }
        var head = "\(method) \(target) HTTP/1.1\r\nHost: dsr\r\nConnection: close\r\n"
        if let body {
            head += "Content-Type: application/json\r\nContent-Length: \(body.count)\r\n"
        }
        try send(descriptor, Data((head + "\r\n").utf8) + (body ?? Data()))
        return try parse(receive(descriptor))
    }

    private func open() throws -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { throw Unreachable(description: "no socket") }
        var time = timeval(tv_sec: timeout, tv_usec: 0)
        setsockopt(
            descriptor, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
            close(descriptor)
            throw Unreachable(description: "socket path \(path) is too long")
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard result == 0 else {
            let reason = String(cString: strerror(errno))
            close(descriptor)
            throw Unreachable(
                description: "no daemon answers on \(path) (\(reason)); is dsrd running? "
                    + "--socket or DSR_SOCKET names another socket")
        }
        return descriptor
    }

    private func send(_ descriptor: Int32, _ data: Data) throws {
        var sent = 0
        while sent < data.count {
            let count = data.withUnsafeBytes { bytes in
                Glibc.send(
                    descriptor, bytes.baseAddress.map { $0 + sent }, data.count - sent,
                    Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw Unreachable(description: "the daemon went away") }
            sent += count
        }
    }

    private func receive(_ descriptor: Int32) throws -> Data {
        var data = Data()
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            if count == 0 { return data }
            guard count > 0 else { throw Unreachable(description: "the daemon does not answer") }
            data.append(contentsOf: buffer[..<count])
            if isComplete(data) { return data }
        }
    }

    private func split(_ data: Data) -> (head: [String], body: Data)? {
        guard let end = data.range(of: Data("\r\n\r\n".utf8)) else { return nil }
        let head = String(decoding: data[..<end.lowerBound], as: UTF8.self)
        return (head.components(separatedBy: "\r\n"), data[end.upperBound...])
    }

    private func contentLength(_ head: [String]) -> Int? {
        for line in head where line.lowercased().hasPrefix("content-length:") {
            return Int(line.dropFirst(15).trimmingCharacters(in: .whitespaces))
        }
        return nil
    }

    private func isComplete(_ data: Data) -> Bool {
        guard let (head, body) = split(data), let length = contentLength(head) else { return false }
        return body.count >= length
    }

    private func parse(_ data: Data) throws -> Data {
        guard let (head, body) = split(data), let first = head.first,
            let status = Int(first.split(separator: " ").dropFirst().first ?? "")
        else { throw Unreachable(description: "the answer is not HTTP") }
        let content = contentLength(head).map { Data(body.prefix($0)) } ?? Data(body)
        guard (200..<300).contains(status) else {
            let model = try? JSONCoding.decode(ErrorModel.self, content)
            throw Refused(
                status: status, model: model ?? ErrorModel(message: "HTTP status \(status)"))
        }
        return content
    }

    public func get<Value: Decodable>(_ type: Value.Type, _ target: String) throws -> Value {
        try JSONCoding.decode(type, request("GET", target))
    }
}
