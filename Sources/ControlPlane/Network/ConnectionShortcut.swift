import DataPlane

/// Keeps one relayed connection on its shorter way (`RelayShortcut`): looks now and then at which port its remote end
/// is behind. It ends with the object. Lives on the session thread.
final class ConnectionShortcut {
    private let engine: SessionEngine
    private let flow: RelayShortcut.Flow
    private let remote: IPAddress
    private let side: SpliceSide
    private var timer: EventLoop.Timer?

    /// ns until the first look: what is over by then needs no shortcut.
    private static let settleTime: UInt64 = 200_000_000
    /// ns between looks.
    private static let interval: UInt64 = 1_000_000_000

    /// Nil: there are no shortcuts.
    init?(
        local: SocketAddress, remote: SocketAddress, side: SpliceSide, engine: SessionEngine
    ) {
        guard let owner = engine.shortcut else { return nil }
        self.engine = engine
        self.remote = remote.address
        self.side = side
        flow = owner.flow(
            local: local, remote: remote,
            domain: side == .client ? engine.clientDomain : engine.storageDomain)
        look(after: Self.settleTime)
    }

    deinit { timer?.cancel() }

    private func look(after time: UInt64) {
        timer = engine.loop.schedule(after: time) { [weak self] in
            guard let self else { return }
            flow.update(engine.port(of: remote, side: side))
            look(after: Self.interval)
        }
    }
}
