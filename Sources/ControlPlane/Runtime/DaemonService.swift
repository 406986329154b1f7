import CLinux
import DataPlane
import Foundation
import StorageProtocols
import Synchronization

// What the API asks of the daemon. Sessions are asked on their own thread.
extension Daemon: ControlService {
    var now: UInt64 { dsr_monotonic_ns() }

    func onLoop<Value: Sendable>(
        _ body: @escaping @Sendable () -> Value
    ) async -> Value {
        await withCheckedContinuation { continuation in
            loop.post { continuation.resume(returning: body()) }
        }
    }

    func seconds(_ ns: UInt64) -> Double { Double(ns) / 1e9 }

    func portName(_ number: PortNumber) -> String { portNames.name(number) ?? "\(number)" }

    // MARK: Status

    public func status() async -> StatusModel {
        var model = StatusModel()
        model.version = "0.1.0"
        model.pid = getpid()
        model.uptimeS = seconds(now - startedAt)
        model.configuration = configurationPath
        model.virtualAddresses = configuration.clientCPU.addresses.map {
            "\($0.address)/\($0.prefixLength)"
        }
        let ports = dataplane.call { $0.portStatus() } ?? []
        model.ports = ports.count
        model.portsUp = ports.count { $0.isUp }
        model.rxPackets = ports.reduce(0) { $0 + $1.counters.receivedPackets }
        model.txPackets = ports.reduce(0) { $0 + $1.counters.sentPackets }
        if let status = dataplane.call({ $0.status() }) {
            model.rules = status.rules
            model.flows = status.flows
            model.eventsLost = status.eventsLost
            for (reason, count) in status.drops { model.drops["\(reason)"] = count }
        }
        model.macs = dataplane.call { [now] in $0.macStatus(now: now).count } ?? 0
        let sessions = await summaries()
        model.sessions = sessions.count
        for session in sessions { model.sessionsByState[session.state, default: 0] += 1 }
        (model.sessionsUnprotected, model.requestsUnprotected) = await unprotected()
        model.resources = configuration.resources.count
        let servers = await servers()
        model.servers = servers.count
        model.serversHealthy = servers.count { $0.health == .up }
        model.isReady = isReady.load(ordering: .acquiring)
        return model
    }

    func summaries() async -> [SessionSummary] {
        await onLoop { [self] in engine.sessions.values.map(\.summary).sorted { $0.id < $1.id } }
    }

    /// That of one session; nil when there is none.
    private func summary(_ id: UInt64) async -> SessionSummary? {
        guard let known = SpliceID(exactly: id) else { return nil }
        return await onLoop { [self] in engine.sessions[known]?.summary }
    }

    // MARK: Switch

    public func ports() async -> [PortModel] {
        (dataplane.call { $0.portStatus() } ?? []).map { status in
            var model = PortModel()
            model.number = status.number
            model.name = portName(status.number)
            let configured = configuration.ports.first { $0.name == model.name }
            model.device = configured?.device ?? model.name
            model.kind = status.isCPU ? "cpu" : configured?.kind.rawValue ?? ""
            model.side = PortSide.allCases.first { $0.domain == status.domain }?.rawValue ?? ""
            model.domain = status.domain
            model.isUp = status.isUp
            model.rxPackets = status.counters.receivedPackets
            model.rxBytes = status.counters.receivedBytes
            model.txPackets = status.counters.sentPackets
            model.txBytes = status.counters.sentBytes
            model.rxDrops = status.device.receiveDrops
            model.rxTruncated = status.device.receiveTruncated
            model.txDrops = status.device.transmitDrops
            model.rejoins = status.device.rejoins
            return model
        }
    }

    public func macs() async -> [MACModel] {
        (dataplane.call { [now] in $0.macStatus(now: now) } ?? []).map { status in
            var model = MACModel()
            model.mac = "\(status.mac)"
            model.domain = status.domain
            model.port = status.port
            model.portName = portName(status.port)
            model.ageS = seconds(status.age)
            return model
        }
    }

    public func flushMACs() async throws(ControlError) -> ChangeModel {
        let count = dataplane.call { [now] in $0.macStatus(now: now).count } ?? 0
        try apply([.flushMACs(nil)])
        return ChangeModel(count: count)
    }

    @discardableResult
    func apply(_ commands: [Command]) throws(ControlError) -> [CommandResult] {
        do throws(BatchError) {
            return try dataplane.apply(commands)
        } catch {
            let what = "command \(error.index + 1) of the batch"
            switch error.reason {
            case .ruleTableFull(let limit), .flowTableFull(let limit):
                throw ControlError(
                    .limitReached, "\(what): the table has room for \(limit)",
                    suggestion: "raise it in the configuration's limits")
            case .noSuchPort(let port):
                throw ControlError(.badRequest, "\(what): there is no port \(port)")
            case .stopped, .queueFull:
                throw ControlError(.unavailable, "the dataplane is stopping or overloaded")
            default: throw ControlError(.conflict, "\(what): \(error.reason)")
            }
        }
    }

    private func refusal(_ error: RuleSyntaxError, index: Int) -> ControlError {
        ControlError(
            .badRequest,
            ErrorModel(
                message: error.message, line: index + 1, column: error.column,
                length: error.length, suggestion: error.suggestion, text: error.text))
    }

    func parse(_ texts: [String]) throws(ControlError) -> [Rule] {
        var rules: [Rule] = []
        for (index, text) in texts.enumerated() {
            do throws(RuleSyntaxError) {
                rules.append(try RuleSyntax.parse(text, ports: portNames))
            } catch {
                throw refusal(error, index: index)
            }
        }
        return rules
    }

    private func selector(
        _ text: String, isStrict: Bool
    ) throws(ControlError) -> RuleSelector {
        do throws(RuleSyntaxError) {
            return try RuleSyntax.parseSelector(text, isStrict: isStrict, ports: portNames)
        } catch {
            throw refusal(error, index: 0)
        }
    }

    public func rules(selector text: String?) async throws(ControlError) -> [RuleModel] {
        let wanted = try text.map { text throws(ControlError) in
            try selector(text, isStrict: false)
        }
        let status = dataplane.call { [now] in $0.ruleStatus(now: now) } ?? []
        return status.filter { wanted.map($0.rule.isSelected(by:)) ?? true }
            .sorted { $0.rule.priority > $1.rule.priority }
            .map { RuleModel($0) }
    }

    /// Rules as they may stand beside the switch's own.
    private func parseRules(_ texts: [String]) throws(ControlError) -> [Rule] {
        let rules = try parse(texts)
        for (index, rule) in rules.enumerated() {
            guard let refusal = SwitchRules.refusal(rule, own: ownRules) else { continue }
            throw ControlError(
                .conflict,
                ErrorModel(
                    message: refusal.message, line: index + 1, suggestion: refusal.suggestion,
                    text: texts[index]))
        }
        return rules
    }

    public func addRules(_ texts: [String]) async throws(ControlError) -> ChangeModel {
        try apply(try parseRules(texts).map { .addRule($0) })
        return ChangeModel(count: texts.count)
    }

    public func deleteRules(
        selector text: String, isStrict: Bool
    ) async throws(ControlError) -> ChangeModel {
        var selector = try selector(text, isStrict: isStrict)
        selector.exceptCookie = SwitchRules.cookie
        let results = try apply([.deleteRules(selector)])
        if case .count(let count) = results[0] { return ChangeModel(count: count) }
        return ChangeModel(count: 0)
    }

    public func replaceRules(_ texts: [String]) async throws(ControlError) -> ChangeModel {
        try apply([.replaceRules(ownRules + (try parseRules(texts)))])
        return ChangeModel(count: texts.count)
    }

    public func trace(_ request: TraceRequest) async throws(ControlError) -> TraceModel {
        let (bytes, described) = try packet(request)
        var port = described
        if let name = request.inPort {
            guard let number = portNames.number(name) ?? UInt16(name) else {
                throw ControlError(.badRequest, "there is no port \(name)", field: "in_port")
            }
            port = number
        }
        guard portNames.name(port) != nil else {
            throw ControlError(
                .badRequest, port == 0 ? "no port" : "there is no port \(port)", field: "in_port",
                suggestion: "say where the packet comes in")
        }
        guard let result = dataplane.call({ [port, now] in $0.dryRun(bytes, port: port, now: now) })
        else { throw ControlError(.unavailable, "the dataplane is stopping or overloaded") }
        var model = TraceModel()
        model.steps = result.steps
        model.outputs = result.outputs
        model.drop = result.drops.last.map { "\($0)" }
        return model
    }

    /// The frame of a trace, and the port that its description names (0: none).
    private func packet(
        _ request: TraceRequest
    ) throws(ControlError) -> (bytes: [UInt8], port: PortNumber) {
        switch (request.packet, request.flow) {
        case (let text?, nil):
            guard let bytes = ISCSIText.binary("0x" + text.filter { !$0.isWhitespace }) else {
                throw ControlError(.badRequest, "not hexadecimal", field: "packet")
            }
            return (bytes, 0)
        case (nil, let text?):
            do throws(RuleSyntaxError) {
                let described = try PacketDescription.parse(text, ports: portNames)
                return (described.frame, described.inPort)
            } catch {
                throw refusal(error, index: 0)
            }
        default:
            throw ControlError(
                .badRequest, "give a packet or a flow, one of them", field: "packet",
                suggestion: "packet is an Ethernet frame in hexadecimal, flow a description")
        }
    }

    public func flows(offset: Int, limit: Int) async throws(ControlError) -> FlowPage {
        var page = FlowPage()
        page.total = dataplane.call { $0.flowCount } ?? 0
        page.offset = offset
        page.flows = FlowPager.read(dataplane, offset: offset, limit: limit).map { status in
            var model = FlowModel()
            let key = status.key
            let ipProtocol = UInt8(truncatingIfNeeded: key.ports >> 24)
            model.protocol =
                ipProtocol == IPProtocol.tcp
                ? "tcp" : ipProtocol == IPProtocol.udp ? "udp" : "\(ipProtocol)"
            model.source = "\(IPAddress(high: key.sourceHigh, low: key.sourceLow))"
            model.destination = "\(IPAddress(high: key.destinationHigh, low: key.destinationLow))"
            model.sourcePort = UInt16(truncatingIfNeeded: key.ports >> 48)
            model.destinationPort = UInt16(truncatingIfNeeded: key.ports >> 32)
            model.domain = UInt8(truncatingIfNeeded: key.ports >> 16)
            model.origin = key.ports >> 8 & 0xff == 0 ? "network" : "cpu"
            model.actions = RuleFormat.actions(status.actions)
            model.cookie = "0x" + String(status.cookie, radix: 16)
            model.nPackets = status.packets
            model.nBytes = status.bytes
            let second = UInt32(truncatingIfNeeded: now / 1_000_000_000)
            model.idleS = Double(second &- min(second, status.lastUsed))
            return model
        }
        return page
    }

    // MARK: Sessions

    func state(_ name: String) -> SessionState {
        switch name {
        case "login": .login
        case "discovery", "fullFeature", "clientOnly": .idle
        case "connecting": .connecting
        case "relaying", "routing": .relaying
        case "drainingToSplice", "drainingToRelay", "restoring": .draining
        case "spliced": .spliced
        default: .closing
        }
    }

    private func model(
        _ summary: SessionSummary, _ snapshot: SpliceSnapshot?
    ) -> SessionModel {
        var model = SessionModel()
        model.id = UInt64(summary.id)
        model.protocol = summary.protocolName
        model.state = state(summary.state)
        model.grain = summary.state == "spliced" ? .connection : .message
        model.client = "\(summary.client)"
        model.initiator = summary.initiator
        model.target = summary.target
        model.resource = summary.protocolName == "tcp" ? nil : summary.resource
        model.service = summary.protocolName == "tcp" ? summary.resource : nil
        model.server = summary.serverName
        model.user = summary.user
        model.isSpliceable = summary.server != nil
        model.clientLeg.local = "\(summary.clientLocal)"
        model.clientLeg.remote = "\(summary.client)"
        if let server = summary.server, let local = summary.serverLocal {
            var leg = LegModel()
            leg.local = "\(local)"
            leg.remote = "\(server)"
            model.serverLeg = leg
        }
        model.grainReason = summary.grainReason
        model.units = summary.units.map { unit in
            var model = SessionUnitModel()
            model.unit = unit.number
            model.resource = unit.resource
            model.server = unit.serverName
            model.state = state(unit.state)
            model.outstandingRequests = unit.openRequests
            model.clientBytes = unit.statistics.relayedFromClient
            model.serverBytes = unit.statistics.relayedFromServer
            return model
        }
        let statistics = summary.statistics
        model.splices = statistics.splices
        model.unsplices = statistics.unsplices
        model.giveUps = statistics.spliceGiveUps + statistics.unspliceGiveUps
        model.longestStallUs = statistics.longestFreeze / 1_000
        model.clientBytes = statistics.relayedFromClient
        model.serverBytes = statistics.relayedFromServer
        model.ageS = seconds(now &- min(now, summary.openedAt))
        if let snapshot {
            model.clientBytes += snapshot.client.bytes
            model.serverBytes += snapshot.server.bytes
            let last = max(snapshot.client.lastData, snapshot.server.lastData)
            model.idleS = last == 0 ? model.ageS : seconds(now &- min(now, last))
            model.clientPackets = snapshot.client.packets
            model.serverPackets = snapshot.server.packets
            model.clientLeg.port = snapshot.client.port == 0 ? "" : portName(snapshot.client.port)
            model.serverLeg?.port = snapshot.server.port == 0 ? "" : portName(snapshot.server.port)
        }
        return model
    }

    public func sessions() async -> [SessionModel] {
        let all = await summaries()
        var result: [SessionModel] = []
        result.reserveCapacity(all.count)
        forEachSnapshot(of: all) { result.append(model($0, $1)) }
        let protection = await protection()
        for index in result.indices {
            result[index].add(SpliceID(exactly: result[index].id).flatMap { protection[$0] })
        }
        return result
    }

    private static let sessionsAtOnce = 256

    public func session(_ id: UInt64) async throws(ControlError) -> SessionModel {
        guard let summary = await summary(id) else {
            throw ControlError(.notFound, "there is no session \(id)")
        }
        var result = model(summary, dataplane.call { $0.spliceSnapshot(summary.id) } ?? nil)
        result.add(await protection(of: summary.id))
        return result
    }

    public func change(
        session id: UInt64, _ verb: SessionVerb
    ) async throws(ControlError) -> SessionModel {
        let found = await onLoop { [self] () -> (found: Bool, server: Bool) in
            guard let known = SpliceID(exactly: id), let session = engine.sessions[known] else {
                return (false, false)
            }
            switch verb {
            case .close: session.close("closed by command")
            case .splice: session.setWantsSplice(true)
            case .unsplice: session.setWantsSplice(false)
            }
            return (true, session.redirect?.server != nil || !session.summary.units.isEmpty)
        }
        guard found.found else { throw ControlError(.notFound, "there is no session \(id)") }
        if verb == .close {
            var model = SessionModel()
            model.id = id
            model.state = .closing
            return model
        }
        guard found.server else {
            throw ControlError(
                .conflict, "session \(id) has no server leg yet",
                suggestion: "it gets one with its first command")
        }
        // A change waits for a moment without data in flight: it may give up and try again.
        let wanted = verb == .splice ? "spliced" : "relaying"
        for _ in 0..<1_000 {
            guard let summary = await summary(id) else {
                throw ControlError(.notFound, "session \(id) has ended")
            }
            if summary.state == wanted {
                return model(summary, dataplane.call { $0.spliceSnapshot(summary.id) } ?? nil)
            }
            try? await Task.sleep(nanoseconds: 1_000_000)
        }
        throw ControlError(
            .conflict, "session \(id) could not be \(verb.rawValue)d within 1 s",
            suggestion: "the switch goes on trying; look at session show \(id)")
    }

    /// Traffic of these sessions and of all that have ended, by resource or service.
    func resourceTraffic(
        _ live: [SessionSummary], ended: [String: ResourceTraffic]
    ) -> [String: ResourceTraffic] {
        var traffic = ended
        forEachSnapshot(of: live) { summary, snapshot in
            for unit in summary.units {
                traffic[unit.resource, default: ResourceTraffic()]
                    .add(unit.statistics, unit.isAlone ? snapshot : nil)
            }
            guard let name = summary.resource else { return }
            traffic[name, default: ResourceTraffic()].add(summary, snapshot)
        }
        return traffic
    }

    /// The dataplane is asked for a bounded number at a time: packets go on in between.
    private func forEachSnapshot(
        of all: [SessionSummary], _ body: (SessionSummary, SpliceSnapshot?) -> Void
    ) {
        let ids = all.map(\.id)
        for start in stride(from: 0, to: all.count, by: Self.sessionsAtOnce) {
            let part = start..<min(start + Self.sessionsAtOnce, all.count)
            let snapshots = dataplane.call { $0.spliceSnapshots(ids[part]) } ?? [:]
            for summary in all[part] { body(summary, snapshots[summary.id]) }
        }
    }

    // MARK: Operation

    public func events(after: UInt64?) async -> [EventModel] { events.events(after: after) }
}

extension Rule {
    /// As `ovs-ofctl dump-flows` selects.
    func isSelected(by selector: RuleSelector) -> Bool {
        if selector.cookieMask != 0, (cookie ^ selector.cookie) & selector.cookieMask != 0 {
            return false
        }
        if let port = selector.outPort, !actions.contains(.output(port)) { return false }
        return match.isAtLeastAsSpecific(as: selector.match)
    }
}
