import Foundation
import Glibc

/// dsrd in one of the lab's hosts.
struct RedirectorService {
    let state: LabState
    let service: Topology.Service
    let configuration: String
    let socket: String

    func start() throws -> ProcessRecord {
        guard FileManager.default.isExecutableFile(atPath: state.dsrd) else {
            throw LabError("\(state.dsrd): no such program; --dsrd names another, --no-dsrd none")
        }
        let log = state.log(service.host, "dsrd")
        let pid = try Command.start(
            [
                "ip", "netns", "exec", state.namespace(service.host), state.dsrd, "--config",
                configuration, "--socket", socket,
            ], log: log, environment: LabSelection.environment(state))
        let record = ProcessRecord(host: service.host, kind: "dsrd", pid: pid, log: log)
        do {
            try waitUntilReady(record)
        } catch {
            record.signal(SIGKILL)
            throw error
        }
        return record
    }

    func stop(_ record: ProcessRecord) {
        record.signal(SIGTERM)
        if !record.waitForEnd(seconds: 10) {
            record.signal(SIGKILL)
            _ = record.waitForEnd(seconds: 3)
        }
    }

    /// Ready is when clients are listened to; its servers may need moments more to be found healthy, and
    /// the kernel up to a second to say that a port is up.
    private func waitUntilReady(_ record: ProcessRecord) throws {
        let deadline = Date().addingTimeInterval(20)
        var readySince: Date?
        while Date() < deadline {
            guard record.isAlive else { break }
            try Interruption.check()
            if let status = UnixHTTP.get(socket, "/status"), status["is_ready"] as? Bool == true {
                let since = readySince ?? Date()
                readySince = since
                func count(_ key: String) -> Int { status[key] as? Int ?? 0 }
                if count("servers_healthy") >= count("servers"), count("ports_up") >= count("ports")
                {
                    return
                }
                if Date().timeIntervalSince(since) > 3 { return }
            }
            usleep(25_000)
        }
        throw LabError("dsrd of \(service.host) does not come up:\n\(tail(record.log))")
    }
}

/// As much of HTTP over a Unix socket as one question needs.
enum UnixHTTP {
    static func get(_ path: String, _ target: String) -> [String: Any]? {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var limit = timeval(tv_sec: 2, tv_usec: 0)
        setsockopt(
            descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else { return nil }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let connected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard connected == 0 else { return nil }
        let request = Array("GET \(target) HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n".utf8)
        guard send(descriptor, request, request.count, Int32(MSG_NOSIGNAL)) == request.count else {
            return nil
        }
        var answer = Data()
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            if count <= 0 { break }
            answer.append(contentsOf: buffer[..<count])
        }
        guard let end = answer.range(of: Data("\r\n\r\n".utf8)) else { return nil }
        let body = answer[end.upperBound...]
        return (try? JSONSerialization.jsonObject(with: Data(body))) as? [String: Any]
    }
}
