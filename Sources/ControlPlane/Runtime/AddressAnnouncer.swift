import DataPlane

/// Tells the networks on both sides which MAC addresses the switch's addresses have: a client may still
/// remember those of a machine that had them before.
final class AddressAnnouncer {
    private struct Announcement {
        var domain: DomainID
        var frame: [UInt8]
    }

    /// RFC 4861 section 10: MAX_NEIGHBOR_ADVERTISEMENT times, RetransTimer apart. RFC 5227 section 1.1 has
    /// two ARP announcements, 2 s apart; a third does no harm.
    private static let rounds = 3
    private static let interval: UInt64 = 1_000_000_000

    private let announcements: [Announcement]
    private let loop: EventLoop
    private let dataplane: DataPlaneWorker

    init(configuration: Configuration, loop: EventLoop, dataplane: DataPlaneWorker) {
        let sides = [
            (PortSide.client, configuration.clientCPU), (.storage, configuration.storageCPU),
        ]
        announcements = sides.flatMap { side, cpu in
            cpu.addresses.map {
                Announcement(
                    domain: side.domain,
                    frame: AddressAnnouncement.frame(of: $0.address, at: cpu.macAddress))
            }
        }
        self.loop = loop
        self.dataplane = dataplane
    }

    /// Announces at the start.
    func start() { repeatRounds(Self.rounds) }

    private func repeatRounds(_ rounds: Int) {
        guard rounds > 0 else { return }
        announce()
        loop.schedule(after: Self.interval) { [weak self] in self?.repeatRounds(rounds - 1) }
    }

    /// Once, on every port of the side or on one that has come up.
    func announce(only port: PortNumber? = nil) {
        let now = loop.clock()
        _ = dataplane.call { [announcements] pipeline in
            for announcement in announcements {
                _ = pipeline.announce(
                    announcement.frame, domain: announcement.domain, only: port, now: now)
            }
        }
    }
}

/// Tells whether a port's device was gone when the port changed.
final class PortRejoins {
    private let dataplane: DataPlaneWorker
    private var known: [PortNumber: UInt64] = [:]

    init(dataplane: DataPlaneWorker) { self.dataplane = dataplane }

    /// True when the port has joined its device again since the last question.
    func take(_ number: PortNumber) -> Bool {
        let status = dataplane.call { $0.portStatus() }?.first { $0.number == number }
        let rejoins = status?.device.rejoins ?? 0
        defer { known[number] = rejoins }
        return rejoins > known[number] ?? 0
    }
}
