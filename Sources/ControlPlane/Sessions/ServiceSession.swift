import DataPlane
import Logging

/// A plain TCP service: every connection goes to one server and is spliced soon after both legs are up.
final class ServiceSession: Session {
    private let engine: SessionEngine
    private let name: String
    private let serverName: String
    private let address: SocketAddress
    private let openedAt: UInt64
    private let core: Redirect
    var redirect: Redirect? { core }
    let requests: [RequestTotals.Source] = []

    init(
        id: SpliceID, leg: Leg, engine: SessionEngine, name: String, serverName: String,
        address: SocketAddress, splicesAtOnce: Bool
    ) {
        self.engine = engine
        self.name = name
        self.serverName = serverName
        self.address = address
        openedAt = engine.loop.now
        core = Redirect(id: id, engine: engine, client: leg, relay: TransparentRelay())
        core.settleTime = Self.settleTime
        core.setWantsSplice(splicesAtOnce)
    }

    /// A connection for one short question and its answer ends sooner than a splice would be made.
    private static let settleTime: UInt64 = 2_000_000

    func start() {
        core.onOutcome = { [weak self] outcome in
            guard let self else { return }
            switch outcome {
            case .connected, .serverLost, .serverLeft, .serverHeld, .serverReplaced, .requestLate,
                .clientForeign, .formerLost:
                break
            case .connectFailed(let reason):
                engine.log.warning("service \(name): \(serverName) at \(address): \(reason)")
                core.end("no connection to \(serverName): \(reason)", reset: true)
            case .ended(let reason):
                engine.remove(core.id, reason: reason, lingers: core.lingers)
            }
        }
        guard let local = engine.storageAddress(like: address.address) else {
            return core.end("no storage address of the family of \(address)", reset: true)
        }
        core.watch(.client)
        core.connect(to: address, from: local, serverMAC: .zero)
    }

    func close(_ reason: String) { core.end(reason, reset: true) }

    var summary: SessionSummary {
        SessionSummary(
            id: core.id, protocolName: "tcp", client: core.client.remote,
            clientLocal: core.client.local, server: core.server?.remote,
            serverLocal: core.server?.local, initiator: nil, user: nil, target: nil,
            resource: name, serverName: serverName, state: core.state.rawValue,
            wantsSplice: core.wantsSplice, statistics: core.statistics, openedAt: openedAt)
    }
}
