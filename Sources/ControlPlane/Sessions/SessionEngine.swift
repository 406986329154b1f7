import CLinux
import DataPlane
import Glibc
import Logging

/// Owns all sessions: listeners, identifiers, the way to the dataplane, the dispatch of its events.
///
/// One thread, the event loop's. Everything that is not marked otherwise is called there only.
final class SessionEngine {
    /// What the engine needs to know of the machine it runs on.
    struct Environment: Sendable {
        public var clientDevice: String
        public var storageDevice: String
        public var clientDomain: DomainID
        public var storageDomain: DomainID
        public var clientMAC: MACAddress
        public var storageMAC: MACAddress
        /// Addresses of the storage-side CPU port: sources of server legs.
        public var storageAddresses: [IPAddress]
        public var sessionMaximum: Int
        /// ns that a change of state may take.
        public var drainMaximum: UInt64 = 40_000_000
        /// Seconds without a packet after which a spliced session is closed; 0: never.
        public var idleSeconds: UInt32 = 0
        /// Seconds of silence after which an end of a spliced session is asked whether it lives; 0: never.
        public var keepAliveSeconds: UInt32 = 0
        public init(
            clientDevice: String, storageDevice: String, clientDomain: DomainID,
            storageDomain: DomainID, clientMAC: MACAddress, storageMAC: MACAddress,
            storageAddresses: [IPAddress], sessionMaximum: Int
        ) {
            self.clientDevice = clientDevice
            self.storageDevice = storageDevice
            self.clientDomain = clientDomain
            self.storageDomain = storageDomain
            self.clientMAC = clientMAC
            self.storageMAC = storageMAC
            self.storageAddresses = storageAddresses
            self.sessionMaximum = sessionMaximum
        }
    }

    let loop: EventLoop
    let dataplane: DataPlaneWorker
    let environment: Environment
    let log: Logger
    let ports = PortAllocator()
    /// Receive buffer shared by all sessions of the thread.
    let scratch: UnsafeMutableRawBufferPointer
    /// Of it, what is relayed in one piece: it is looked at, copied and sent while it is in the processor's cache.
    var relayScratch: UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(rebasing: scratch[..<(64 << 10)])
    }
    let relayBufferMaximum = 256 << 10
    /// A drain that lasts longer gives up, ns.
    var drainMaximum: UInt64 { environment.drainMaximum }

    private(set) var sessions: [SpliceID: any Session] = [:]
    /// The newest session of a client's address and port.
    private var sessionsByClient: [SocketAddress: SpliceID] = [:]
    private var listeners: [SocketAddress: Int32] = [:]
    private var freeIDs = Deque()
    /// Statistics of sessions that have ended, summed.
    private(set) var ended = Redirect.Statistics()
    /// Their traffic, by resource or service.
    let traffic: EndedTraffic
    private var nextID: SpliceID = 0
    private var random = SystemRandomNumberGenerator()
    var counters = EngineCounters()
    /// For connections that are relayed for good; nil: there is none.
    var shortcut: RelayShortcut?
    /// Called on the loop's thread for everything that people may want to follow.
    var onEvent: (SessionEvent) -> Void = { _ in }

    init(
        loop: EventLoop, dataplane: DataPlaneWorker, environment: Environment, log: Logger
    ) {
        self.loop = loop
        self.dataplane = dataplane
        traffic = EndedTraffic(dataplane: dataplane)
        self.environment = environment
        self.log = log
        scratch = .allocate(byteCount: 256 << 10, alignment: 64)
    }

    deinit { scratch.deallocate() }

    var clientDevice: String { environment.clientDevice }
    var storageDevice: String { environment.storageDevice }
    var clientDomain: DomainID { environment.clientDomain }
    var storageDomain: DomainID { environment.storageDomain }
    var clientMAC: MACAddress { environment.clientMAC }
    var storageMAC: MACAddress { environment.storageMAC }

    /// Our address towards servers of the same family as `address`.
    func storageAddress(like address: IPAddress) -> IPAddress? {
        environment.storageAddresses.first { $0.isIPv4 == address.isIPv4 }
    }

    /// 10 to 15 ms, so that several sessions do not try again together.
    func drainBackoff() -> UInt64 { UInt64.random(in: 10_000_000...15_000_000, using: &random) }

    /// Port behind which a neighbour of a CPU port is; nil: nobody knows.
    func port(of address: IPAddress, side: SpliceSide) -> PortNumber? {
        let device = side == .client ? clientDevice : storageDevice
        let domain = side == .client ? clientDomain : storageDomain
        guard let mac = NeighbourTable.macAddress(of: address, device: device) else { return nil }
        return dataplane.call { $0.port(of: mac, in: domain) } ?? nil
    }

    @discardableResult
    func apply(_ commands: [Command]) throws(BatchError) -> [CommandResult] {
        try dataplane.apply(commands)
    }

    /// Hands commands of a session over and does not wait for them. Right for what no packet and no
    /// later step depends on at once; a refusal ends the session.
    func post(_ id: SpliceID, _ commands: [SpliceCommand]) {
        let loop = SendableLoop(loop: loop, engine: self)
        dataplane.post(commands.map { .splice($0) }) { error in loop.refused(id, error) }
    }

    /// The same; `then` is called when they have been applied.
    func apply(_ id: SpliceID, _ commands: [SpliceCommand], then: @escaping () -> Void) {
        let loop = SendableLoop(loop: loop, engine: self)
        let step = SendableStep(body: then)
        dataplane.post(
            commands.map { .splice($0) }, onApplied: { loop.loop.post { step.body() } }
        ) { error in loop.refused(id, error) }
    }

    /// Runs on the session thread only.
    private struct SendableStep: @unchecked Sendable {
        let body: () -> Void
    }

    /// The same for the end of a session: nothing is left to be done when a step is refused.
    func postEnd(_ commands: [SpliceCommand]) {
        dataplane.post(commands.map { .splice($0) }) { _ in }
    }

    /// The way back to the session thread from the dataplane's.
    private struct SendableLoop: @unchecked Sendable {
        let loop: EventLoop
        weak var engine: SessionEngine?

        func refused(_ id: SpliceID, _ error: BatchError) {
            loop.post { engine?.sessions[id]?.close("the dataplane refused a step: \(error)") }
        }
    }

    // MARK: Events of the dataplane

    /// Starts to react to the dataplane's events.
    func start() {
        loop.register(dataplane.eventDescriptor, events: [.read]) { [weak self] _ in
            self?.takeEvents()
        }
    }

    private func takeEvents() {
        while let event = dataplane.nextEvent() {
            switch event {
            case .spliceProgress(let id): sessions[id]?.redirect?.progressed()
            case .spliceClosed(let id, let reason):
                sessions[id]?.redirect?.closedInDataplane(reason)
            case .spliceMessageHeld(let id, _): sessions[id]?.redirect?.messageHeld()
            case .spliceServerLost(let id, let loss):
                sessions[id]?.redirect?.serverLostInDataplane(loss)
            case .spliceRequestLate(let id):
                if let redirect = sessions[id]?.redirect { redirect.onOutcome(.requestLate) }
            case .portChanged(let port, let isUp):
                log.notice("port \(port) is \(isUp ? "up" : "down")")
                onEvent(.port(port, isUp: isUp))
            case .ruleExpired(let id, let cookie, let isHard):
                onEvent(.ruleExpired(id: id, cookie: cookie, isHard: isHard))
            case .flowExpired, .punt: break
            }
        }
    }

    // MARK: Sessions

    /// Listens at an address of the client-side CPU port. `make` says what a new connection becomes.
    func listen(
        _ address: SocketAddress, make: @escaping (SpliceID, Leg) -> any Session
    ) throws(SystemCallError) {
        let descriptor = try Socket.listen(
            address, options: ListenOptions(device: environment.clientDevice, backlog: 1_024))
        listeners[address] = descriptor
        watch(address, descriptor, make)
    }

    private func watch(
        _ address: SocketAddress, _ descriptor: Int32,
        _ make: @escaping (SpliceID, Leg) -> any Session
    ) {
        loop.register(descriptor, events: [.read]) { [weak self] _ in
            // A bounded number at a time, so that a flood of connections does not starve sessions.
            for _ in 0..<64 {
                guard let self, acceptOne(address, descriptor, make) else { return }
            }
        }
    }

    /// Out of descriptors or memory: the connection would be reported again at once, and again.
    private func pause(
        _ address: SocketAddress, _ listener: Int32,
        _ make: @escaping (SpliceID, Leg) -> any Session
    ) {
        loop.unregister(listener)
        loop.schedule(after: 100_000_000) { [weak self] in
            guard let self, listeners[address] == listener else { return }
            watch(address, listener, make)
        }
    }

    /// Sessions that were accepted there go on.
    func stopListening(_ address: SocketAddress) {
        guard let descriptor = listeners.removeValue(forKey: address) else { return }
        loop.unregister(descriptor)
        Socket.close(descriptor)
    }

    private func acceptOne(
        _ address: SocketAddress, _ listener: Int32,
        _ make: @escaping (SpliceID, Leg) -> any Session
    ) -> Bool {
        let accepted: AcceptedSocket
        do {
            guard let next = try Socket.accept(listener) else { return false }
            accepted = next
        } catch {
            log.warning("accept: \(error)")
            pause(address, listener, make)
            return false
        }
        counters.accepted += 1
        guard sessions.count < environment.sessionMaximum, let id = takeID() else {
            counters.refusedFull += 1
            Socket.setReset(accepted.descriptor)
            Socket.close(accepted.descriptor)
            return true
        }
        do {
            let leg = try follow(id, accepted)
            let session = make(id, leg)
            sessions[id] = session
            sessionsByClient[accepted.remote] = id
            onEvent(.opened(session.summary))
            session.start()
        } catch {
            log.warning("connection from \(accepted.remote): \(error)")
            Socket.setReset(accepted.descriptor)
            Socket.close(accepted.descriptor)
            giveBack(id)
        }
        return true
    }

    /// Makes the dataplane follow the client leg of a new connection.
    private func follow(_ id: SpliceID, _ accepted: AcceptedSocket) throws -> Leg {
        // The kernel lets a client use its port again only when the old connection is over: its end may
        // not have come to us yet, when both come in one round.
        if let old = sessionsByClient[accepted.remote], let session = sessions[old],
            session.summary.clientLocal == accepted.local
        {
            session.close("its client began anew")
        }
        var leg = Leg(
            descriptor: accepted.descriptor, local: accepted.local, remote: accepted.remote)
        let syn = try SavedSYN(descriptor: accepted.descriptor)
        let info = try TCPInfo(descriptor: accepted.descriptor)
        leg.update(from: info)
        leg.maximumSegment = Int(
            syn.maximumSegment ?? (accepted.remote.address.isIPv4 ? 536 : 1_220))
        leg.base = SequenceNumber(syn.initialSequence) + 1
        try followClient(id, leg)
        return leg
    }

    /// The dataplane follows the client leg of a session from now on.
    func followClient(_ id: SpliceID, _ leg: Leg) throws {
        try apply([
            .splice(
                .open(
                    id,
                    client: leg.spliceLeg(domain: clientDomain, localMAC: clientMAC),
                    usesTimestamps: leg.usesTimestamps, usesSACK: leg.usesSACK)),
            .splice(
                .setTimeouts(
                    id, idle: environment.idleSeconds, keepAlive: environment.keepAliveSeconds)),
        ])
        do {
            try tellReceived(id, .client, leg)
        } catch {
            post(id, [.close(id)])
            throw error
        }
    }

    /// For a leg that the dataplane has begun to follow: data may have come before.
    func tellReceived(
        _ id: SpliceID, _ side: SpliceSide, _ leg: Leg
    ) throws(SystemCallError) {
        let received = try TCPInfo(descriptor: leg.descriptor).bytesReceived
        post(
            id,
            [
                .updateLeg(
                    id, side, remoteScale: leg.remoteScale, localScale: leg.localScale,
                    received: (leg.base, leg.base + UInt32(truncatingIfNeeded: received)))
            ])
    }

    /// The session is over. `lingers`: the dataplane keeps its record for a while.
    func remove(_ id: SpliceID, reason: String, lingers: Bool) {
        guard let session = sessions.removeValue(forKey: id) else { return }
        let client = session.summary.client
        if sessionsByClient[client] == id { sessionsByClient[client] = nil }
        counters.closed += 1
        let summary = session.summary
        ended.add(summary.statistics)
        onEvent(.closed(summary, reason: reason))
        log.debug("session \(id) ended: \(reason)")
        if traffic.add(summary, lingers: lingers) {
            loop.postLocal { [weak self] in self?.traffic.read() }
        }
        guard lingers else { return giveBack(id) }
        loop.schedule(after: Self.lingerTime) { [weak self] in self?.giveBack(id) }
    }

    /// ns that the number of a session rests that ended in the dataplane, and at least its port too: the
    /// dataplane frees a record 5 s after its end.
    static let lingerTime: UInt64 = 8_000_000_000

    func changed(_ redirect: Redirect) {
        guard let session = sessions[redirect.id] else { return }
        onEvent(.changed(session.summary))
    }

    private func takeID() -> SpliceID? {
        // The numbers that rested longest first.
        if nextID < dataplane.spliceCapacity {
            nextID += 1
            return nextID - 1
        }
        return freeIDs.popFirst()
    }

    private func giveBack(_ id: SpliceID) { freeIDs.append(id) }

    /// Numbers in the order in which they came back.
    private struct Deque {
        private var items: [SpliceID] = []
        private var head = 0

        mutating func append(_ id: SpliceID) { items.append(id) }
        mutating func popFirst() -> SpliceID? {
            guard head < items.count else { return nil }
            head += 1
            let id = items[head - 1]
            // Moving what is left pays off when half is gone.
            if head > 1_024, head > items.count / 2 {
                items.removeFirst(head)
                head = 0
            }
            return id
        }
    }

    /// Ends every session, at shutdown.
    func endAll(_ reason: String) {
        for session in sessions.values { session.close(reason) }
    }
}

/// Sums since the start.
struct EngineCounters {
    var accepted: UInt64 = 0
    var refusedFull: UInt64 = 0
    var closed: UInt64 = 0
    var loginsAccepted: UInt64 = 0
    var loginsRefused: UInt64 = 0
    var authenticationFailures: UInt64 = 0
    var serverLoginFailures: UInt64 = 0
}

/// What the engine tells those who follow events.
enum SessionEvent {
    case opened(SessionSummary)
    case changed(SessionSummary)
    case closed(SessionSummary, reason: String)
    case port(PortNumber, isUp: Bool)
    case ruleExpired(id: UInt32, cookie: UInt64, isHard: Bool)
    case server(String, isUp: Bool, detail: String)
    case login(SessionSummary, accepted: Bool, detail: String)
    /// A session's server is gone; the session waits for another.
    case serverLost(SessionSummary, detail: String)
    /// A session went on with another server (or with the same, anew). `reason`: empty when the server was
    /// left in good order. ns without one.
    case moved(SessionSummary, from: String, reason: String, duration: UInt64)
    /// A mirror's member leaves service, or is in service again.
    case volume(String, member: String, isOut: Bool, detail: String)
}

/// A client's session, of whatever protocol.
protocol Session: AnyObject {
    /// The one that has the client's connection; nil: none has it now.
    var redirect: Redirect? { get }
    var summary: SessionSummary { get }
    /// Where its requests are counted.
    var requests: [RequestTotals.Source] { get }
    func start()
    func close(_ reason: String)
    /// By command: into the dataplane, or out of it.
    func setWantsSplice(_ wanted: Bool)
}

extension Session {
    func setWantsSplice(_ wanted: Bool) { redirect?.setWantsSplice(wanted) }
}

/// What people are told of a session.
struct SessionSummary: Sendable {
    var id: SpliceID
    var protocolName: String
    var client: SocketAddress
    var clientLocal: SocketAddress
    var server: SocketAddress?
    var serverLocal: SocketAddress?
    var initiator: String?
    var user: String?
    var target: String?
    var resource: String?
    var serverName: String?
    /// login, full-feature, connecting, relaying, draining, spliced, closed.
    var state: String
    var wantsSplice: Bool
    var statistics: Redirect.Statistics
    var openedAt: UInt64
    /// Of a session to the target that has all resources: those that it has used.
    var units: [Unit] = []
    /// Why it is at its grain.
    var grainReason: String?

    struct Unit: Sendable {
        var number: Int
        var resource: String
        var serverName: String?
        /// As a session's.
        var state: String
        /// As far as the relay knows: not while the session is alone with the unit.
        var openRequests: Int
        /// The session uses nothing else, and is this unit's.
        var isAlone: Bool
        var statistics: Redirect.Statistics
    }

    func uses(server: String) -> Bool {
        serverName == server || units.contains { $0.serverName == server }
    }

    func uses(resource name: String) -> Bool {
        resource == name || units.contains { $0.resource == name }
    }
}
