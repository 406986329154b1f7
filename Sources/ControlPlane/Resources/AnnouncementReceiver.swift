import CLinux
package import DataPlane
import Glibc
package import Logging
package import StorageProtocols

/// Hears agents at the storage side's addresses. On the session thread, or before it runs.
package final class AnnouncementReceiver {
    /// Where it listens.
    package struct Place: Sendable {
        package var addresses: [IPAddress]
        /// Nil: any device.
        package var device: String?
        /// 0: the kernel chooses; all addresses then have ports of their own.
        package var port: UInt16

        package init(addresses: [IPAddress], device: String?, port: UInt16) {
            self.addresses = addresses
            self.device = device
            self.port = port
        }
    }

    private let loop: EventLoop
    private let log: Logger
    /// ms since 1970.
    private let clock: () -> UInt64
    private var sockets: [DatagramSocket] = []
    private var gate: AnnouncementGate
    private var addresses: [String: [IPAddress]] = [:]
    private var silence: UInt64
    private var timer: EventLoop.Timer?
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 2_048, alignment: 8)

    /// What agents have said.
    package private(set) var table = AgentTable()
    /// Datagrams that were taken, and refused by reason.
    package private(set) var accepted: UInt64 = 0
    package private(set) var refused: [AnnouncementRefusal: UInt64] = [:]

    /// Resources have appeared at a server, are gone from it, or are said otherwise.
    package var onChange: (_ server: String, AgentTable.Change) -> Void = { _, _ in }
    package var onLoad: (_ server: String, AgentLoad) -> Void = { _, _ in }
    /// Nothing is heard of the agent any more, or it has said that it ends. The server may be well.
    package var onSilence: (_ server: String) -> Void = { _ in }
    /// Heard for the first time, or again.
    package var onReturn: (_ server: String) -> Void = { _ in }

    package init(
        _ configuration: Configuration, loop: EventLoop, log: Logger,
        clock: @escaping () -> UInt64 = AnnouncementReceiver.wallClock
    ) {
        self.loop = loop
        self.log = log
        self.clock = clock
        gate = AnnouncementGate(skew: 0)
        silence = 0
        update(to: configuration)
    }

    deinit { buffer.deallocate() }

    /// ms since 1970.
    package static func wallClock() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(clamping: time.tv_sec) * 1_000 + UInt64(time.tv_nsec) / 1_000_000
    }

    /// Servers, secrets and times may be others now; the port stays.
    package func update(to configuration: Configuration) {
        let agents = configuration.agents ?? Configuration.Agents()
        gate.skew = UInt64(agents.skewSeconds) * 1_000
        silence = UInt64(agents.silenceMilliseconds) * 1_000_000
        var keys: [String: AnnouncementKey] = [:]
        for server in configuration.servers { keys[server.name] = server.agentKey ?? agents.key }
        gate.setKeys(keys)
        addresses = Dictionary(
            configuration.servers.map { ($0.name, $0.addresses) }, uniquingKeysWith: { $1 })
        table.keep(only: Set(keys.keys))
    }

    /// Opens the sockets. Throws when one cannot be had; none is open then.
    package func start(at place: Place) throws(SystemCallError) {
        do {
            for address in place.addresses {
                let socket = try DatagramSocket(
                    bind: SocketAddress(address: address, port: place.port), device: place.device)
                sockets.append(socket)
            }
        } catch {
            stop()
            throw error
        }
        for socket in sockets {
            loop.register(socket.descriptor, events: [.read]) { [weak self] _ in
                self?.receive(socket)
            }
        }
        watchSilence()
    }

    package func stop() {
        timer?.cancel()
        for socket in sockets {
            loop.unregister(socket.descriptor)
            socket.close()
        }
        sockets = []
    }

    /// Where it listens, with the ports that the kernel chose.
    package var listening: [SocketAddress] { sockets.map(\.address) }

    // MARK: Receiving

    /// Datagrams of one round: a flood of them must not starve sessions.
    private static let roundMaximum = 32

    private func receive(_ socket: DatagramSocket) {
        for _ in 0..<Self.roundMaximum {
            do throws(SystemCallError) {
                guard case .datagram(let count, let sender) = try socket.receive(into: buffer)
                else { return }
                let datagram = Array(buffer[..<min(count, buffer.count)])
                take(datagram, from: sender.address)
            } catch {
                // Errors of earlier packets; the socket goes on.
                log.debug("announcements at \(socket.address): \(error)")
                return
            }
        }
    }

    /// One datagram.
    package func take(_ datagram: [UInt8], from sender: IPAddress) {
        do throws(AnnouncementRefusal) {
            let announcement = try gate.take(datagram, now: clock()) { server in
                addresses[server]?.contains(sender) ?? false
            }
            let change = try table.apply(announcement, now: loop.clock())
            accepted += 1
            tell(announcement.server, change)
        } catch {
            refuse(error, sender)
        }
    }

    private func tell(_ server: String, _ change: AgentTable.Change) {
        if change.isReturn {
            log.notice("agent of \(server) is heard")
            onReturn(server)
        }
        if change.changesResources { onChange(server, change) }
        if let load = change.load { onLoad(server, load) }
        if change.isLeaving {
            log.notice("agent of \(server) ends")
            onSilence(server)
        }
    }

    private func refuse(_ reason: AnnouncementRefusal, _ sender: IPAddress) {
        let count = (refused[reason] ?? 0) + 1
        refused[reason] = count
        // Whoever can send can repeat it at will: the log gets the first, the tenth, the hundredth ...
        guard Self.isPowerOfTen(count) else { return }
        log.warning(
            "announcement from \(sender) refused: \(reason.rawValue)",
            metadata: ["count": "\(count)"])
    }

    private static func isPowerOfTen(_ value: UInt64) -> Bool {
        var rest = value
        while rest % 10 == 0, rest > 0 { rest /= 10 }
        return rest == 1
    }

    // MARK: Silence

    private func watchSilence() {
        for server in table.markSilent(now: loop.clock(), silence: silence) {
            log.notice("agent of \(server) is silent")
            onSilence(server)
        }
        timer = loop.schedule(after: max(silence / 8, 10_000_000)) { [weak self] in
            self?.watchSilence()
        }
    }
}
