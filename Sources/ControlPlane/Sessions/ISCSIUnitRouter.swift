import DataPlane
import Logging
import StorageProtocols

/// A session to the target that has all resources as its units: each command goes to the server that has its unit's
/// resource; what is about the target rather than a unit is answered here.
///
/// Towards the client there is one numbering, ours; every server has a nexus with its own. The rules are in
/// DESIGN.md, "Several servers in one session".
final class ISCSIUnitRouter: MessageRouter, ISCSINexusOwner {
    /// A request that was sent on and not answered.
    struct Task {
        var unit: Int
        var header: [UInt8]
        var opcode: UInt8 { header[0] & 0x3f }
    }

    /// A unit that the session has used.
    final class Unit {
        /// Nil: it is a volume.
        let nexus: ISCSINexus?
        let volume: VolumeUnit?
        let port: any MessageDestination
        /// Commands that are open there.
        var open = 0
        /// StatSN that its nexus uses next, and StatSNs of ours, in their order, that stand for its newest ones and
        /// that the client has not acknowledged.
        var nextStatus: UInt32 = 1
        var unacknowledged: [UInt32] = []

        init(_ nexus: ISCSINexus) {
            self.nexus = nexus
            volume = nil
            port = NexusPort(nexus)
        }

        init(_ volume: VolumeUnit) {
            nexus = nil
            self.volume = volume
            port = volume
        }

        var nexuses: [ISCSINexus] { nexus.map { [$0] } ?? volume?.nexuses ?? [] }
    }

    let format = MessageFormat.iscsi
    let wholeMaximum = ISCSIPDU.headerLength + 1_020 + ISCSIText.maximumLength + 3
    let id: SpliceID
    let engine: SessionEngine
    let portal: ISCSIPortal
    private let login: ISCSILoginResult
    var client: Leg
    private(set) lazy var relay = MessageRelay(engine: engine, router: self)
    var units: [Int: Unit] = [:]
    private var inventory: SCSITargetUnits
    private var discovery: ISCSIDiscovery
    /// By initiator task tag.
    var tasks: [UInt32: Task] = [:]
    /// Task management that several servers carry out: answers that are missing, and the worst so far.
    var shared: [UInt32: (missing: Set<Int>, worst: UInt8)] = [:]
    var nextStatus: UInt32
    var expectedCommand: UInt32
    /// The unit whose nexus has the client's connection, since the session uses nothing else.
    var alone: Int?
    /// The unit of the newest command, and since when there was no other.
    var newestUnit: Int?
    var aloneSince: UInt64 = 0
    var grain = GrainChange()
    var isOver = false
    private let makeSummary: () -> SessionSummary?
    private let onEnd: (String, _ lingers: Bool) -> Void

    /// - Parameter session: an answering machine, for its numbers.
    init(
        id: SpliceID, login: ISCSILoginResult, session: ISCSITargetSession, client: Leg,
        engine: SessionEngine, portal: ISCSIPortal, summary: @escaping () -> SessionSummary?,
        onEnd: @escaping (String, _ lingers: Bool) -> Void
    ) {
        self.id = id
        self.login = login
        self.client = client
        self.engine = engine
        self.portal = portal
        makeSummary = summary
        self.onEnd = onEnd
        nextStatus = session.nextStatus
        expectedCommand = session.expectedCommand
        inventory = SCSITargetUnits(units: Set(portal.units(for: login.user).keys))
        discovery = portal.discovery(for: client, user: login.user)
    }

    /// Takes the client's connection over.
    /// - Parameter waiting: octets of the client that nobody has looked at.
    /// - Parameter unsent: answers that it was given before and has not taken.
    func begin(_ descriptor: Int32, waiting: [UInt8], unsent: [UInt8]) {
        relay.say(unsent)
        relay.attach(descriptor, waiting: waiting)
        shorten()
        watchGrain()
    }

    /// The way of packets past the dataplane: looked after as long as the session is routed.
    private var shortcut: RelayShortcut.Flow?
    private var shortcutTimer: EventLoop.Timer?
    /// ns between looks at where the ends are.
    private static let shortcutInterval: UInt64 = 1_000_000_000

    func dropShortcut() {
        shortcutTimer?.cancel()
        shortcut = nil
    }

    func shorten() {
        guard !isOver, alone == nil, let owner = engine.shortcut else { return }
        if let shortcut {
            shortcut.update(engine.port(of: client.remote.address, side: .client))
        } else {
            shortcut = owner.flow(
                local: client.local, remote: client.remote, domain: engine.clientDomain)
            let snapshot = engine.dataplane.call { [id] in $0.spliceSnapshot(id) } ?? nil
            shortcut?.update(snapshot.flatMap { $0.client.port == 0 ? nil : $0.client.port })
        }
        for nexus in nexuses { nexus.redirect.shorten() }
        shortcutTimer = engine.loop.schedule(after: Self.shortcutInterval) { [weak self] in
            self?.shorten()
        }
    }

    /// Adds what is known of units to the session's.
    func describe(_ summary: inout SessionSummary) {
        summary.units = units.sorted { $0.key < $1.key }.flatMap { number, unit in
            unit.nexuses.map { nexus in
                SessionSummary.Unit(
                    number: number, resource: nexus.resource.name,
                    serverName: nexus.serverName, state: nexus.redirect.state.rawValue,
                    openRequests: unit.nexus == nil
                        ? unit.volume?.openRequests(at: nexus) ?? 0 : unit.open,
                    isAlone: number == alone, statistics: nexus.redirect.statistics)
            }
        }
        summary.grainReason = grain.reason
        if let redirect {
            summary.server = redirect.server?.remote
            summary.serverLocal = redirect.server?.local
            summary.wantsSplice = redirect.wantsSplice
        }
        for unit in summary.units { summary.statistics.add(unit.statistics) }
    }

    var nexuses: [ISCSINexus] { units.sorted { $0.key < $1.key }.flatMap(\.value.nexuses) }

    // MARK: From the client

    func route(_ header: inout [UInt8]) throws(RelayError) -> MessageRoute {
        acknowledge(header.field32(28))
        let opcode = header[0] & 0x3f
        switch opcode {
        case ISCSIOpcode.dataOut:
            // What is not an open task's is data of one that has ended.
            guard let task = tasks[header.field32(16)], task.opcode == ISCSIOpcode.scsiCommand,
                let unit = units[task.unit]
            else { return .nobody }
            prepare(&header, for: unit)
            return .destination(task.unit)
        case ISCSIOpcode.nopOut where header.field32(16) == ISCSIPDU.reservedTag:
            // Questions of servers are answered here, but for those that the client got from a server itself.
            let question = header.field32(20)
            guard
                let (place, unit) = units.first(where: {
                    $0.value.nexus?.relay.pings.contains(question) == true
                })
            else { return .nobody }
            prepare(&header, for: unit)
            return .destination(place)
        case ISCSIOpcode.scsiCommand:
            guard accept(header) else { return .nobody }
            return routeCommand(&header)
        case ISCSIOpcode.nopOut, ISCSIOpcode.text, ISCSIOpcode.logout, ISCSIOpcode.taskManagement:
            return accept(header) ? .router : .nobody
        default:
            early.append(ISCSIPDU(rejecting: header, .protocolError))
            return .nobody
        }
    }

    // RFC 7143 section 4.2.2.1: "The target MUST silently ignore any non-immediate command outside of this range
    // or non-immediate duplicates within the range." One connection keeps the order, so that a number which is not
    // the next one is one or the other, or was skipped by the initiator and will never come.
    private func accept(_ header: [UInt8]) -> Bool {
        if header[0] & 0x40 != 0 { return true }
        guard header.field32(24) == expectedCommand else { return false }
        expectedCommand &+= 1
        return true
    }

    private func routeCommand(_ header: inout [UInt8]) -> MessageRoute {
        let tag = header.field32(16)
        guard tasks[tag] == nil else {
            early.append(ISCSIPDU(rejecting: header, .taskInProgress))
            return .nobody
        }
        let command = SCSICommand(Array(header[32..<48]))
        switch inventory.answer(command, unit: SCSIUnitNumber.number(header[8..<16])) {
        case .good(let data):
            let maximum = Int(login.initiatorMaxReceive)
            early += ISCSIPDU.data(data, to: header, maximum: maximum)
            return .nobody
        case .check(let sense):
            early.append(ISCSIPDU(sense: sense, to: header))
            return .nobody
        case .unit(let number):
            guard let unit = unit(number) else {
                early.append(ISCSIPDU(sense: .communicationFailure, to: header))
                return .nobody
            }
            // SAM-5 section 5.3.1, TASK SET FULL: the unit has no room for the command. It keeps a server that
            // has stopped from taking all of the session.
            guard unit.open < Self.openMaximum else {
                early.append(ISCSIPDU(status: 0x28, to: header))
                return .nobody
            }
            tasks[tag] = Task(unit: number, header: header)
            unit.open += 1
            if newestUnit != number {
                newestUnit = number
                aloneSince = engine.loop.now
            }
            prepare(&header, for: unit)
            return .destination(number)
        }
    }

    /// Commands that one unit may have open for a session.
    static let openMaximum = 64

    /// ExpStatSN, as the unit's nexus counts.
    private func prepare(_ header: inout [UInt8], for unit: Unit) {
        header.set(unit.nextStatus &- UInt32(unit.unacknowledged.count), at: 28)
    }

    /// The client has all responses below this StatSN.
    private func acknowledge(_ status: UInt32) {
        for unit in units.values {
            while let first = unit.unacknowledged.first, Int32(bitPattern: status &- first) > 0 {
                unit.unacknowledged.removeFirst()
            }
        }
    }

    func take(_ message: [UInt8]) throws(RelayError) {
        var reader = ISCSIPDUReader(dataMaximum: ISCSIText.maximumLength)
        reader.append(message)
        guard let pdu = try? reader.next() else {
            throw RelayError(message: "a PDU of kind \(message[0] & 0x3f) that is too long")
        }
        switch pdu.opcode {
        case ISCSIOpcode.nopOut:
            // RFC 7143 section 11.19: the ping data is told back.
            var answer = ISCSIPDU(opcode: ISCSIOpcode.nopIn, flags: 0x80)
            answer.initiatorTaskTag = pdu.initiatorTaskTag
            answer.targetTransferTag = ISCSIPDU.reservedTag
            answer.data = Array(pdu.data.prefix(Int(login.initiatorMaxReceive)))
            say(answer)
        case ISCSIOpcode.text:
            do throws(ISCSIRejectReason) {
                var answer = try discovery.answer(pdu, login: login)
                answer.initiatorTaskTag = pdu.initiatorTaskTag
                say(answer)
            } catch {
                reject(pdu.header, error)
            }
        case ISCSIOpcode.logout:
            var answer = ISCSIPDU(opcode: ISCSIOpcode.logoutResponse, flags: 0x80)
            answer.initiatorTaskTag = pdu.initiatorTaskTag
            // Reason 2 asks for recovery, which needs ErrorRecoveryLevel 2 (section 11.15.1).
            answer[2] = pdu.flags & 0x7f == 2 ? 2 : 0
            say(answer)
            relay.closeWhenSent("logged out")
        case ISCSIOpcode.taskManagement: manage(pdu, message)
        default: break
        }
    }

    /// Answers to the message that comes in now.
    private var early: [ISCSIPDU] = []

    func passedOver() {
        guard !early.isEmpty else { return }
        let due = early
        early = []
        for pdu in due { say(pdu) }
    }

    // MARK: Task management

    // RFC 7143 section 11.5.1 for functions, 11.6.1 for responses.
    private func manage(_ pdu: ISCSIPDU, _ octets: [UInt8]) {
        let tag = pdu.initiatorTaskTag
        guard tasks[tag] == nil else { return reject(pdu.header, .taskInProgress) }
        switch pdu.flags & 0x7f {
        case 1:
            guard let task = tasks[pdu.field32(20)] else { return answer(pdu, 1) }
            forward(octets, tag, to: [task.unit])
        case 2, 3, 4, 5:
            let number = SCSIUnitNumber.number(octets[8..<16])
            guard let number, inventory.units.contains(number) else { return answer(pdu, 2) }
            guard unit(number) != nil else { return answer(pdu, 0xff) }
            forward(octets, tag, to: [number])
        case 6, 7:
            // Units that this session has not used have nothing of its own to be ended.
            guard !units.isEmpty else { return answer(pdu, 0) }
            forward(octets, tag, to: Set(units.keys))
        case 8: answer(pdu, 4)
        default: answer(pdu, 5)
        }
    }

    private func answer(_ pdu: ISCSIPDU, _ response: UInt8) {
        answer(management: pdu.initiatorTaskTag, response)
    }

    private func answer(management tag: UInt32, _ response: UInt8) {
        var answer = ISCSIPDU(opcode: ISCSIOpcode.taskManagementResponse, flags: 0x80)
        answer.initiatorTaskTag = tag
        answer[2] = response
        say(answer)
    }

    private func forward(_ octets: [UInt8], _ tag: UInt32, to places: Set<Int>) {
        guard let first = places.first else { return }
        tasks[tag] = Task(unit: first, header: Array(octets[..<ISCSIPDU.headerLength]))
        if places.count > 1 { shared[tag] = (places, 0) }
        for place in places.sorted() {
            guard let unit = units[place] else { continue }
            var octets = octets
            prepare(&octets, for: unit)
            relay.feed(octets, to: place)
        }
    }

    /// What a function that was carried out has ended gets no response (RFC 7143 section 11.5.1).
    private func tasksEnded(by request: Task, at place: Int) {
        let function = request.header[1] & 0x7f
        switch function {
        case 1: end(request.header.field32(20))
        case 2, 4, 5, 6, 7:
            let ended = tasks.filter {
                $0.value.unit == place && $0.value.opcode == ISCSIOpcode.scsiCommand
            }
            for tag in ended.keys { end(tag) }
        default: break
        }
    }

    private func end(_ tag: UInt32) {
        guard let task = tasks.removeValue(forKey: tag) else { return }
        if task.opcode == ISCSIOpcode.scsiCommand { units[task.unit]?.open -= 1 }
    }

    // MARK: To the client

    func reply(_ message: UnsafeMutableRawBufferPointer, from place: Int) -> Bool {
        guard let unit = units[place], let base = message.baseAddress else { return false }
        let opcode = base.load8(0) & 0x3f
        let tag = base.load32(16)
        var counts = true
        var isWanted = true
        switch opcode {
        case ISCSIOpcode.dataIn:
            counts = base.load8(1) & 1 != 0
            isWanted = isOpen(tag, at: place)
            if isWanted, counts { end(tag) }
        case ISCSIOpcode.readyToTransfer:
            counts = false
            isWanted = isOpen(tag, at: place)
        case ISCSIOpcode.scsiResponse:
            isWanted = isOpen(tag, at: place)
            if isWanted { end(tag) }
        case ISCSIOpcode.taskManagementResponse: isWanted = managed(base, tag, place)
        case ISCSIOpcode.reject:
            // The header of what is rejected is the data (RFC 7143 section 11.17).
            if message.count >= 2 * ISCSIPDU.headerLength { end(base.load32(48 + 16)) }
        case ISCSIOpcode.nopIn:
            counts = tag != ISCSIPDU.reservedTag
            isWanted = false
            if !counts { answerPing(base, unit, place) }
        case ISCSIOpcode.asyncMessage:
            // Event 0 is about a unit; the others are about the server's connection (section 11.9.1).
            isWanted = base.load8(36) == 0
        default: isWanted = false
        }
        if counts { unit.nextStatus = base.load32(24) &+ 1 }
        guard isWanted else { return false }
        // A Data-In without status has no StatSN (section 11.7.4).
        if counts || opcode == ISCSIOpcode.readyToTransfer { base.store32(nextStatus, 24) }
        if counts {
            unit.unacknowledged.append(nextStatus)
            nextStatus &+= 1
        }
        base.store32(expectedCommand, 28)
        base.store32(maximumCommand, 32)
        return true
    }

    /// Of a task that is not known here, since the log had no room for it, the unit knows.
    private func isOpen(_ tag: UInt32, at place: Int) -> Bool {
        tasks[tag].map { $0.unit == place } ?? true
    }

    var maximumCommand: UInt32 { expectedCommand &+ login.commandWindow &- 1 }

    private func managed(_ base: UnsafeMutableRawPointer, _ tag: UInt32, _ place: Int) -> Bool {
        guard let request = tasks[tag] else { return false }
        let response = base.load8(2)
        if response == 0 { tasksEnded(by: request, at: place) }
        if var several = shared[tag] {
            several.missing.remove(place)
            several.worst = max(several.worst, response)
            shared[tag] = several.missing.isEmpty ? nil : several
            guard several.missing.isEmpty else { return false }
            base.store8(several.worst, 2)
        }
        tasks[tag] = nil
        return true
    }

    /// RFC 7143 section 11.18: with the tag and the LUN of the question.
    private func answerPing(_ base: UnsafeMutableRawPointer, _ unit: Unit, _ place: Int) {
        let question = Array(UnsafeRawBufferPointer(start: base, count: ISCSIPDU.headerLength))
        guard question.field32(20) != ISCSIPDU.reservedTag else { return }
        // Not from within the relay: it looks at the nexus's buffer.
        engine.loop.postLocal { [weak self] in
            guard let self, let unit = units[place] else { return }
            var answer = ISCSIPDU(opcode: ISCSIOpcode.nopOut, flags: 0x80, isImmediate: true)
            for index in 8..<16 { answer[index] = question[index] }
            answer.initiatorTaskTag = ISCSIPDU.reservedTag
            answer.targetTransferTag = question.field32(20)
            answer.commandSequence = expectedCommand
            var octets = answer.encoded()
            prepare(&octets, for: unit)
            relay.feed(octets, to: place)
        }
    }

    /// An answer of our own, numbered.
    private func say(_ pdu: ISCSIPDU) {
        var pdu = pdu
        if ISCSIRecovery.countsStatus(pdu) {
            pdu.statusSequence = nextStatus
            nextStatus &+= 1
        }
        pdu.expectedCommand = expectedCommand
        pdu.maximumCommand = maximumCommand
        relay.say(pdu.encoded())
    }

    private func reject(_ header: [UInt8], _ reason: ISCSIRejectReason) {
        say(ISCSIPDU(rejecting: header, reason))
    }

    // MARK: Units

    /// The unit's nexus, made with its first command; nil: there is no such unit any more.
    private func unit(_ number: Int) -> Unit? {
        if let known = units[number] { return known }
        guard let source = portal.units(for: login.user)[number] else { return nil }
        let unit: Unit
        switch source {
        case .resource(let resource):
            guard let nexus = makeNexus(resource, number) else { return nil }
            unit = Unit(nexus)
            portal.join(nexus)
        case .volume(let volume):
            unit = Unit(
                VolumeUnit(
                    volume, id: id, login: login, client: client, engine: engine, portal: portal,
                    summary: { [weak self] in self?.makeSummary() },
                    onOutput: { [weak self] in self?.outputReady() }))
        }
        units[number] = unit
        relay.add(unit.port, at: number)
        return unit
    }

    private func makeNexus(_ resource: Resource, _ number: Int) -> ISCSINexus? {
        guard let there = portal.serverUnit(of: resource.name) else { return nil }
        var leg = client
        leg.descriptor = -1
        let nexus = ISCSINexus(
            resource, id: id, login: login, client: leg, owner: self, engine: engine,
            portal: portal, onClientOutput: { [weak self] in self?.outputReady() })
        nexus.relay.difference.assignsCommands = true
        let own = SCSIUnitNumber.octets(number)
        if own != there { nexus.relay.difference.unit = (own.unitField, there.unitField) }
        return nexus
    }

    /// Resources have come or gone.
    func unitsChanged() {
        // Where the session is alone with a unit nobody would tell it.
        guard alone == nil else { return takeClientBack { [weak self] in self?.unitsChanged() } }
        inventory.change(to: Set(portal.units(for: login.user).keys))
        for (number, unit) in units where !inventory.units.contains(number) {
            unit.nexus?.end("the unit has gone", reset: true)
        }
    }

    var sessionSummary: SessionSummary? { makeSummary() }

    /// A nexus counts for itself; CmdSN is the session's, and nothing that comes is below this.
    var position: ISCSIClientPosition {
        ISCSIClientPosition(
            nextCommand: expectedCommand &- 1, nextStatus: 1, expectedCommand: expectedCommand &- 1,
            maximumCommand: expectedCommand &- 2)
    }

    func nexus(_ nexus: ISCSINexus, refused waiting: [UInt8], reason: String) {
        drop(nexus, .communicationFailure)
    }

    func nexus(_ nexus: ISCSINexus, ended reason: String) {
        if let alone, units[alone]?.nexus === nexus {
            // The client's connection has ended with it.
            return end(reason, reset: true)
        }
        let isGone = units.first { $0.value.nexus === nexus }.map {
            !inventory.units.contains($0.key)
        }
        drop(nexus, isGone == true ? .unitNotSupported : .communicationFailure)
    }

    /// Without a server for the unit: what is open there ends with an error, the session goes on.
    private func drop(_ nexus: ISCSINexus, _ sense: SCSISense) {
        guard let (place, _) = units.first(where: { $0.value.nexus === nexus }) else { return }
        if !isOver { relay.remove(place) }
        units[place] = nil
        engine.traffic.add(nexus)
        portal.leave(nexus)
        nexus.end("no server", reset: true)
        guard !isOver else { return }
        for (tag, task) in tasks
        where task.unit == place || shared[tag]?.missing.contains(place) == true {
            if shared[tag] != nil {
                shared[tag]?.missing.remove(place)
                guard shared[tag]?.missing.isEmpty == true else { continue }
                shared[tag] = nil
            }
            tasks[tag] = nil
            if task.opcode == ISCSIOpcode.taskManagement {
                answer(management: tag, 0xff)
            } else {
                say(ISCSIPDU(sense: sense, to: task.header))
            }
        }
        relay.send()
    }

    // MARK: End

    /// The one that had the client's connection when the session ended.
    private var finalRedirect: Redirect?

    func clientEnded(_ reason: String, reset: Bool) { end(reason, reset: reset) }

    /// Closes everything; the session is told.
    func end(_ reason: String, reset: Bool) {
        guard !isOver else { return }
        isOver = true
        finalRedirect = redirect
        grain.timer?.cancel()
        dropShortcut()
        relay.close(reset: reset)
        for unit in units.values {
            unit.nexus?.end(reason, reset: reset)
            unit.volume?.end(reason)
        }
        if alone == nil { engine.postEnd([.close(id)]) }
        onEnd(reason, finalRedirect?.lingers ?? false)
    }
}

/// A nexus as the relay sees it.
final class NexusPort: MessageDestination {
    private let nexus: ISCSINexus

    init(_ nexus: ISCSINexus) { self.nexus = nexus }

    var output: OutboundBuffer {
        get { nexus.redirect.output.toClient }
        _modify { yield &nexus.redirect.output.toClient }
    }

    func feed(_ bytes: UnsafeRawBufferPointer) { nexus.feed(bytes) }
    func flush() { nexus.flush() }
    func outputTaken() { nexus.redirect.clientOutputTaken() }

    /// A data segment has 24 bits of length.
    private static let messageMaximum = 17 << 20

    func makeRoom(_ count: Int) {
        guard count <= Self.messageMaximum else {
            return nexus.redirect.loseServer("a message of more than \(Self.messageMaximum) octets")
        }
        guard count > nexus.redirect.clientOutputMaximum else { return }
        nexus.redirect.clientOutputMaximum = count
        // It may have stopped reading because of the old bound.
        nexus.redirect.clientOutputTaken()
    }
}
