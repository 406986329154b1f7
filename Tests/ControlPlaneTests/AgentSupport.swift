import ControlPlane
import DataPlane
import Foundation
import Glibc
import Logging
import StorageProtocols
import Synchronization

let agentHead = """
    ports:
      - { name: c, device: c0, side: client }
      - { name: s, device: s0, side: storage }
    cpu:
      client: { device: k0, mac: "02:00:00:00:01:01", addresses: [10.0.0.1/24] }
      storage: { device: k1, mac: "02:00:00:00:02:01", addresses: [10.0.1.1/24] }

    """

/// A loop on a thread of its own, until the value goes.
final class LoopThread: @unchecked Sendable {
    let loop = EventLoop()

    init() {
        let loop = loop
        Thread.detachNewThread { loop.run() }
    }

    deinit { loop.stop() }

    /// Runs `body` on the loop's thread.
    func call<Value: Sendable>(_ body: @escaping @Sendable () -> Value) async -> Value {
        await withCheckedContinuation { continuation in
            loop.post { continuation.resume(returning: body()) }
        }
    }
}

/// A receiver on loopback, and what it has told.
final class ListeningReceiver: @unchecked Sendable {
    enum Told: Hashable, Sendable {
        case change(String, AgentTable.Change)
        case load(String)
        case silence(String)
        case back(String)
    }

    static let secret = "a secret of sixteen"
    static let configuration =
        agentHead + """
            servers:
              - { name: server1, addresses: [127.0.0.1] }
              - { name: server2, addresses: [10.0.1.12] }
            agents: { secret: "\(secret)", silence_ms: 300 }
            """

    let thread = LoopThread()
    let receiver: AnnouncementReceiver
    private let told = Mutex<[(Told, ContinuousClock.Instant)]>([])
    private(set) var port: UInt16 = 0

    init(_ text: String = configuration) async throws {
        receiver = AnnouncementReceiver(
            try Configuration.parse(text: text, file: "x"), loop: thread.loop,
            log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        receiver.onChange = { [weak self] in self?.note(.change($0, $1)) }
        receiver.onLoad = { [weak self] server, _ in self?.note(.load(server)) }
        receiver.onSilence = { [weak self] in self?.note(.silence($0)) }
        receiver.onReturn = { [weak self] in self?.note(.back($0)) }
        let error: String? = await thread.call { [self] () -> String? in
            do {
                try receiver.start(
                    at: .init(addresses: [IPAddress(v4: 0x7f00_0001)], device: nil, port: 0))
                port = receiver.listening.first?.port ?? 0
                return nil
            } catch {
                return "\(error)"
            }
        }
        if let error { throw Failure(description: error) }
    }

    struct Failure: Error, CustomStringConvertible { var description: String }

    func stop() async { await thread.call { [self] in receiver.stop() } }

    private func note(_ event: Told) {
        told.withLock { $0.append((event, ContinuousClock.now)) }
    }

    var events: [Told] { told.withLock { $0.map(\.0) } }

    /// When the first thing was told that is so, from the start on; nil: not in time.
    func first(
        within seconds: Double = 5, _ isWanted: (Told) -> Bool
    ) async throws -> ContinuousClock.Instant? {
        let deadline = ContinuousClock.now + .seconds(seconds)
        while true {
            if let found = told.withLock({ $0.first { isWanted($0.0) } }) { return found.1 }
            if ContinuousClock.now > deadline { return nil }
            try await Task.sleep(for: .milliseconds(2))
        }
    }

    func counts() async -> (accepted: UInt64, refused: [AnnouncementRefusal: UInt64]) {
        await thread.call { [self] in (receiver.accepted, receiver.refused) }
    }

    /// Waits until so many datagrams were taken or refused.
    func waitFor(_ count: UInt64) async throws {
        for _ in 0..<1_000 {
            let counts = await counts()
            if counts.accepted + counts.refused.values.reduce(0, +) >= count { return }
            try await Task.sleep(for: .milliseconds(5))
        }
        throw Failure(description: "datagrams do not arrive")
    }

    /// Sends from 127.0.0.1.
    func send(_ datagram: [UInt8]) throws {
        let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let sent = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                sendto(
                    descriptor, datagram, datagram.count, 0, $0,
                    socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard sent == datagram.count else { throw Failure(description: "not sent: \(errno)") }
    }
}
