import DataPlane
import Logging
import StorageProtocols

/// A unit that is made of several resources: what all sessions that use it share.
///
/// Of a mirror it knows which members have all that was written. The rules, with reasons, are in DESIGN.md,
/// "Volumes". Lives on the session thread.
final class Volume {
    /// What of a mirror's member is to be told.
    enum MemberState: Equatable {
        case inService
        case out(reason: String)
        /// It takes part in writes and gets what it has missed; regions of the change map.
        case copying(done: Int, of: Int)
    }

    let definition: VolumeDefinition
    let resources: [Resource]
    let locks = RangeLocks()
    private let engine: SessionEngine
    private let portal: ISCSIPortal
    /// Nil: nobody has asked the members yet, or they could not answer.
    private(set) var layout: VolumeLayout?
    private(set) var identity: SCSIVolumeIdentity?
    /// READ CAPACITY (16) data of the first member that answered.
    private(set) var memberCapacity: [UInt8] = []
    private var waiting: [(String?) -> Void] = []
    private var isAsking = false
    /// ns; why it could not be had the last time.
    private var failure: (at: UInt64, reason: String)?
    private var users: [ObjectIdentifier: VolumeUnit] = [:]

    // Of a mirror.
    private var map: ChangeMap?
    private let file: ChangeMapFile?
    private(set) var states: [MemberState]
    private var choice = ServerChoice()
    private var random = SystemRandomNumberGenerator()
    /// Writes that are open, and the end of the last one (ns), by region.
    private var writers: [Int: Int] = [:]
    private var lastWrite: [Int: UInt64] = [:]
    private var savesOpen = 0
    /// Changes of members that are on their way to the disk, and who waits for that.
    private var changesOpen = 0
    /// The newest map is not on disk.
    private var mapTrouble: String?
    private var afterChanges: [(String?) -> Void] = []
    private var timer: EventLoop.Timer?
    private var copy: VolumeCopy?
    /// ns before which no copy is begun, by member.
    private var notBefore: [Int: UInt64] = [:]
    /// Initial logins of the volume itself: to ask and to copy.
    private var own: [VolumeMember] = []

    /// Octets of the longest transfer of one command.
    static let transferMaximum = 32 << 20

    init(
        _ definition: VolumeDefinition, resources: [Resource], engine: SessionEngine,
        portal: ISCSIPortal
    ) {
        self.definition = definition
        self.resources = resources
        self.engine = engine
        self.portal = portal
        states = resources.map { _ in .inService }
        let loop = engine.loop
        file = definition.mapPath.map { path in
            ChangeMapFile(path: path, post: { body in loop.post(body) })
        }
    }

    var isMirror: Bool { definition.kind == .mirror }
    var blockLength: Int { Int(identity?.blockLength ?? 512) }

    /// Whether it is there, for people; nil: nobody has asked yet.
    var trouble: String? { layout == nil ? failure?.reason : nil }

    func join(_ unit: VolumeUnit) { users[ObjectIdentifier(unit)] = unit }
    func leave(_ unit: VolumeUnit) { users[ObjectIdentifier(unit)] = nil }
    /// Other sessions that use it.
    func others(than unit: VolumeUnit) -> [VolumeUnit] { users.values.filter { $0 !== unit } }

    // MARK: Its members' capacities

    /// ns until members that could not answer are asked again.
    private static let askInterval: UInt64 = 250_000_000

    /// Calls `then` when commands can be carried out; with a reason, when they cannot.
    func whenReady(_ then: @escaping (String?) -> Void) {
        if layout != nil { return then(nil) }
        if let failure, engine.loop.now - failure.at < Self.askInterval {
            return then(failure.reason)
        }
        waiting.append(then)
        guard !isAsking else { return }
        isAsking = true
        ask()
    }

    private func ownMembers() -> [VolumeMember] {
        if own.isEmpty {
            own = resources.map { resource in
                VolumeMember(
                    resource, id: 0, login: portal.ownLogin(resource), client: portal.ownLeg,
                    engine: engine, portal: portal, summary: { nil })
            }
            for member in own {
                // Others wait for the blocks that it has: no other server is waited for.
                member.onServerLost = { [weak member] reason in member?.leave(reason) }
            }
        }
        return own
    }

    private func leaveOwn() {
        guard copy == nil, !isAsking, !isSettling else { return }
        for member in own { member.leave("not needed any more") }
        own = []
    }

    private func ask() {
        var missing = resources.count
        var answers: [Int: [UInt8]] = [:]
        var reasons: [Int: String] = [:]
        for (place, member) in ownMembers().enumerated() {
            Self.capacity(of: member) { [weak self] data, reason in
                answers[place] = data
                reasons[place] = reason
                missing -= 1
                guard missing == 0, let self else { return }
                isAsking = false
                let trouble = asked(answers, reasons)
                failure = trouble.map { (self.engine.loop.now, $0) }
                if let trouble {
                    engine.log.warning("volume \(definition.name): \(trouble)")
                }
                leaveOwn()
                let waiting = waiting
                self.waiting = []
                for then in waiting { then(trouble) }
            }
            member.flush()
        }
    }

    /// READ CAPACITY (16) data; conditions that stand in the way (SAM-5 section 5.14) are met first.
    static func capacity(
        of member: VolumeMember, attempts: Int = 8, _ then: @escaping ([UInt8]?, String?) -> Void
    ) {
        var data = [UInt8](repeating: 0, count: 32)
        var received = 0
        member.send(
            MemberRequest(
                SCSICommand.readCapacityBlock, inputLength: data.count,
                onData: { offset, bytes in
                    for (index, octet) in bytes.enumerated() where offset + index < data.count {
                        data[offset + index] = octet
                    }
                    received = max(received, offset + bytes.count)
                }, onAgain: { received = 0 },
                onEnd: { outcome in
                    switch outcome {
                    case .answered(status: 0, _) where received >= 12: then(data, nil)
                    case .answered(status: 2, let sense)
                    where SCSISense(sense)?.key == 6 && attempts > 1:
                        capacity(of: member, attempts: attempts - 1, then)
                    case .answered(let status, let sense):
                        let why = SCSISense(sense).map {
                            ", sense \($0.key)/\($0.code)/\($0.qualifier)"
                        }
                        then(
                            nil,
                            "\(member.resource.name) does not say its capacity: status \(status)\(why ?? "")"
                        )
                    case .lost(let reason): then(nil, "\(member.resource.name): \(reason)")
                    }
                }))
    }

    /// Nil: all is known that must be.
    private func asked(_ answers: [Int: [UInt8]], _ reasons: [Int: String]) -> String? {
        let known = answers.compactMapValues(SCSIVolumeIdentity.number(of:))
        guard let first = known.keys.min(), let number = known[first] else {
            return reasons.sorted { $0.key < $1.key }.first?.value ?? "no member has a capacity"
        }
        if let place = known.first(where: { $0.value.blockLength != number.blockLength })?.key {
            return
                "blocks of \(resources[place].name) are not as long as those of \(resources[first].name)"
        }
        memberCapacity = answers[first] ?? []
        if isMirror { return openMirror(known, reasons) }
        guard known.count == resources.count else {
            return reasons.sorted { $0.key < $1.key }.first?.value ?? "a member has no capacity"
        }
        let chunk = UInt64(definition.chunkKiB) << 10 / UInt64(number.blockLength)
        return use(
            definition.kind == .stripe ? .stripe(chunk: chunk) : .concatenation,
            resources.indices.map { known[$0]?.capacity ?? 0 }, number.blockLength)
    }

    private func use(
        _ kind: VolumeLayout.Kind, _ members: [UInt64], _ blockLength: UInt32
    ) -> String? {
        do throws(VolumeLayout.Mistake) {
            let layout = try VolumeLayout(kind, members: members)
            var chunk: UInt64 = 0
            if case .stripe(let blocks) = kind { chunk = blocks }
            identity = SCSIVolumeIdentity(
                name: definition.name, capacity: layout.capacity, blockLength: blockLength,
                optimalGranularity: UInt32(clamping: chunk),
                optimalLength: UInt32(clamping: chunk * UInt64(members.count)),
                maximumLength: UInt32(Self.transferMaximum) / blockLength)
            self.layout = layout
            return nil
        } catch {
            return "its members cannot be put together: \(error)"
        }
    }

    // MARK: Mirror: what is where

    private func openMirror(
        _ known: [Int: (capacity: UInt64, blockLength: UInt32)], _ reasons: [Int: String]
    ) -> String? {
        let blockLength = known.first?.value.blockLength ?? 512
        do throws(ChangeMapError) {
            if map == nil { map = try file?.load() }
        } catch {
            return "its change map: \(error)"
        }
        if map == nil {
            guard known.count == resources.count else {
                return "it is new, and not all of its members are there: "
                    + (reasons.sorted { $0.key < $1.key }.first?.value ?? "")
            }
            let smallest = known.values.map(\.capacity).min() ?? 0
            map = ChangeMap(
                members: definition.members, blockLength: blockLength, capacity: smallest)
            engine.log.notice(
                "volume \(definition.name) is new: \(resources[0].name) is copied to the others")
        }
        guard var map else { return "it has no change map" }
        guard map.members == definition.members, map.blockLength == blockLength else {
            return
                "its change map is about other members: \(map.members.joined(separator: ", "))"
        }
        let there = resources.indices.filter { (known[$0]?.capacity ?? 0) >= map.capacity }
        guard let source = there.first(where: { !map.isOut[$0] }) else {
            return "no member that has all of its data is there: "
                + (reasons.sorted { $0.key < $1.key }.first?.value ?? "")
        }
        // Regions that were being written when this process was ended may differ: all are made as the source has
        // them. A member that is not there leaves.
        let differs = map.changedCount > 0
        for place in resources.indices {
            if map.isOut[place] {
                states[place] = .out(reason: "it has missed writes")
            } else if !there.contains(place) {
                map.isOut[place] = true
                states[place] = .out(reason: reasons[place] ?? "it is too small")
            } else if differs, place != source {
                map.isOut[place] = true
                states[place] = .out(reason: "it may have missed writes")
            } else {
                states[place] = .inService
            }
        }
        self.map = map
        let trouble = use(
            .mirror, Array(repeating: map.capacity, count: resources.count), blockLength)
        if trouble == nil {
            saveMembers()
            look()
        }
        return trouble
    }

    var inService: [Int] { states.indices.filter { states[$0] == .inService } }

    /// Members that a write goes to.
    var written: [Int] {
        states.indices.filter {
            if case .out = states[$0] { return false }
            return true
        }
    }

    /// The one that commands which are not about blocks go to first.
    var lead: Int { isMirror ? inService.first ?? 0 : 0 }

    /// Of a mirror: the member that a read goes to.
    /// - Parameter tried: those that have failed it.
    func reader(except tried: Set<Int>) -> Int? {
        let names = inService.filter { !tried.contains($0) }.map { resources[$0].name }
        guard
            let name = choice.choose(among: names, at: engine.loop.now, using: &random)
        else { return nil }
        return resources.firstIndex { $0.name == name }
    }

    /// - Parameter took: ns; nil: it was not answered.
    func readEnded(_ place: Int, took: UInt64?) {
        let name = resources[place].name
        guard let took else { return choice.left(name) }
        choice.finished(
            on: name, after: .nanoseconds(Int64(clamping: took)), at: engine.loop.now)
    }

    // MARK: Mirror: before and after writes

    /// The change map says on disk that the blocks may differ; then they may be written.
    func beginWrite(_ blocks: Range<UInt64>, _ then: @escaping (String?) -> Void) {
        guard let regions = map?.regions(of: blocks) else { return then(nil) }
        for region in regions { writers[region, default: 0] += 1 }
        // Without a change it may be this region's bit that is on its way, or has not got there.
        if map?.set(regions) == true || savesOpen > 0 || mapTrouble != nil {
            save(then)
        } else {
            then(nil)
        }
    }

    func endWrite(_ blocks: Range<UInt64>) {
        guard let regions = map?.regions(of: blocks) else { return }
        for region in regions {
            let count = (writers[region] ?? 1) - 1
            writers[region] = count > 0 ? count : nil
            lastWrite[region] = engine.loop.now
        }
        look()
    }

    private func save(_ then: @escaping (String?) -> Void = { _ in }) {
        guard let map, let file else { return then(nil) }
        savesOpen += 1
        file.save(map) { [weak self] trouble in
            guard let self else { return }
            savesOpen -= 1
            mapTrouble = trouble
            if let trouble {
                engine.log.error("volume \(definition.name): change map: \(trouble)")
            }
            then(trouble)
        }
    }

    /// Saves who is in service.
    private func saveMembers() {
        changesOpen += 1
        save { [weak self] trouble in
            guard let self else { return }
            changesOpen -= 1
            guard changesOpen == 0 else { return }
            let waiting = afterChanges
            afterChanges = []
            for body in waiting { body(trouble) }
        }
    }

    /// Who has left service is on disk, so that a write that it has missed may be said to be done; or why not.
    func whenSaved(_ then: @escaping (String?) -> Void) {
        if changesOpen == 0, mapTrouble == nil { return then(nil) }
        afterChanges.append(then)
        if changesOpen == 0 { saveMembers() }
    }

    // MARK: Mirror: members leave and return

    /// A member has missed a write, or may have. False: it is the last one that has everything, and stays.
    @discardableResult
    func takeOut(_ place: Int, _ reason: String) -> Bool {
        guard isMirror, map != nil else { return false }
        if case .out = states[place] { return true }
        if states[place] == .inService, inService.count == 1 { return false }
        if copy?.place == place {
            copy?.cancel()
            copy = nil
        }
        notBefore[place] = engine.loop.now + Self.returnInterval
        states[place] = .out(reason: reason)
        map?.isOut[place] = true
        saveMembers()
        engine.log.warning(
            "volume \(definition.name): \(resources[place].name) leaves service: \(reason)")
        engine.onEvent(
            .volume(definition.name, member: resources[place].name, isOut: true, detail: reason))
        for unit in users.values { unit.memberLeft(place, reason) }
        if own.indices.contains(place) { own[place].leave(reason) }
        look()
        return true
    }

    /// ns after a failure until a member's return is tried.
    private static let returnInterval: UInt64 = 500_000_000
    /// ns between looks at what is to be done.
    private static let lookInterval: UInt64 = 250_000_000
    /// ns that a region rests after its last write before the map says that its members are the same.
    private static let restTime: UInt64 = 2_000_000_000

    private func look() {
        guard isMirror, timer == nil else { return }
        timer = engine.loop.schedule(after: Self.lookInterval) { [weak self] in
            guard let self else { return }
            timer = nil
            if inService.count == states.count { settleRegions() } else { bringBack() }
            if inService.count < states.count || (map?.changedCount ?? 0) > 0 { look() }
        }
    }

    private func settleRegions() {
        guard savesOpen == 0, mapTrouble == nil, let changed = map?.changed else { return }
        let rested = changed.filter { isResting($0) }
        guard !rested.isEmpty, !isSettling, engine.loop.now >= settleNotBefore else { return }
        // What a server keeps in a cache it may lose alone: not before it is on the medium are the members the same
        // for certain (SBC-3 section 5.22).
        isSettling = true
        var missing = states.count
        var isGood = true
        for (place, member) in ownMembers().enumerated() {
            Self.synchronize(member) { [weak self] trouble in
                guard let self else { return }
                missing -= 1
                if let trouble {
                    isGood = false
                    settleNotBefore = engine.loop.now + Self.settleInterval
                    takeOut(place, trouble)
                }
                guard missing == 0 else { return }
                isSettling = false
                if isGood, inService.count == states.count { settle(rested) }
                leaveOwn()
            }
            member.flush()
        }
    }
    private var isSettling = false
    /// ns; and what is waited after a failure.
    private var settleNotBefore: UInt64 = 0
    private static let settleInterval: UInt64 = 5_000_000_000

    private func isResting(_ region: Int) -> Bool {
        writers[region] == nil
            && engine.loop.now - (lastWrite[region] ?? 0) > Self.restTime
    }

    /// - Parameter regions: as they were before the caches were written back.
    private func settle(_ regions: [Int]) {
        var isCleared = false
        for region in regions where isResting(region) {
            lastWrite[region] = nil
            if map?.clear(region) == true { isCleared = true }
        }
        if isCleared { save() }
    }

    /// SYNCHRONIZE CACHE (16) of all blocks; `then` gets nil when they are on the medium. A unit without a cache may
    /// not know the command.
    static func synchronize(
        _ member: VolumeMember, attempts: Int = 8, _ then: @escaping (String?) -> Void
    ) {
        let block: [UInt8] = [0x91] + [UInt8](repeating: 0, count: 15)
        member.send(
            MemberRequest(
                block,
                onEnd: { outcome in
                    switch outcome {
                    case .answered(status: 0, _): then(nil)
                    case .answered(status: 2, let sense)
                    where SCSISense(sense)?.key == 6 && attempts > 1:
                        synchronize(member, attempts: attempts - 1, then)
                    case .answered(status: 2, let sense) where SCSISense(sense)?.code == 0x20:
                        then(nil)
                    case .answered(let status, _):
                        then("\(member.resource.name): SYNCHRONIZE CACHE: status \(status)")
                    case .lost(let reason): then("\(member.resource.name): \(reason)")
                    }
                }))
    }

    private func bringBack() {
        guard copy == nil, !isAsking else { return }
        // A server that has forgotten a reservation would let everybody write: it waits until there is none.
        guard users.values.allSatisfy({ !$0.hasReservation }) else {
            return notReturning("reservations are held, which it does not know")
        }
        let now = engine.loop.now
        let candidate = states.indices.first { place in
            guard case .out = states[place], now >= notBefore[place] ?? 0 else { return false }
            let resource = resources[place].name
            return portal.resources.assignedServer(of: resource).map(portal.isServing) == true
        }
        guard let candidate else { return }
        let members = ownMembers()
        // Asked first: that it is there, and as long as it was.
        notBefore[candidate] = now + Self.returnInterval
        isAsking = true
        Self.capacity(of: members[candidate]) { [weak self] data, reason in
            guard let self else { return }
            isAsking = false
            let number = data.flatMap(SCSIVolumeIdentity.number(of:))
            guard let map, let number, number.capacity >= map.capacity,
                number.blockLength == map.blockLength
            else {
                engine.log.notice(
                    "volume \(definition.name): \(resources[candidate].name) is not back: \(reason ?? "it has changed its capacity")"
                )
                return leaveOwn()
            }
            beginCopy(candidate, map)
        }
        members[candidate].flush()
    }

    private func notReturning(_ reason: String) {
        for place in states.indices {
            if case .out = states[place] { states[place] = .out(reason: reason) }
        }
    }

    private func beginCopy(_ place: Int, _ map: ChangeMap) {
        guard case .out = states[place], copy == nil, let source = inService.first else {
            return leaveOwn()
        }
        let regions = map.changed
        states[place] = .copying(done: 0, of: regions.count)
        engine.log.notice(
            "volume \(definition.name): \(resources[place].name) is back, \(regions.count) of \(map.regionCount) regions are copied to it"
        )
        let copy = VolumeCopy(
            place: place, blocks: regions.map(map.blocks(of:)), blockLength: blockLength,
            from: own[source], to: own[place], locks: locks)
        self.copy = copy
        copy.onProgress = { [weak self] done in
            self?.states[place] = .copying(done: done, of: regions.count)
        }
        copy.onEnd = { [weak self] failure in self?.copied(place, failure) }
        copy.start()
    }

    private func copied(_ place: Int, _ failure: VolumeCopy.Failure?) {
        copy = nil
        if let failure {
            engine.log.warning(
                "volume \(definition.name): copying to \(resources[place].name): \(failure.reason)"
            )
            // Whoever failed, this one has not got everything.
            takeOut(place, failure.reason)
            return leaveOwn()
        }
        states[place] = .inService
        map?.isOut[place] = false
        saveMembers()
        engine.log.notice(
            "volume \(definition.name): \(resources[place].name) is in service again")
        engine.onEvent(
            .volume(definition.name, member: resources[place].name, isOut: false, detail: ""))
        leaveOwn()
        look()
    }

    /// At the end of the process.
    func close() {
        timer?.cancel()
        copy?.cancel()
        for member in own { member.leave("the process ends") }
        file?.finish()
    }

    // MARK: For people

    var summary: VolumeSummary {
        VolumeSummary(
            name: definition.name, unit: definition.unit, kind: definition.kind.rawValue,
            capacity: layout.map { $0.capacity * UInt64(blockLength) }, trouble: trouble,
            changedRegions: map?.changedCount, regions: map?.regionCount,
            members: resources.indices.map { place in
                var member = VolumeSummary.Member(
                    resource: resources[place].name,
                    server: portal.resources.assignedServer(of: resources[place].name),
                    state: "in_service")
                switch states[place] {
                case .inService: break
                case .out(let reason):
                    member.state = "out"
                    member.reason = reason
                case .copying(let done, let total):
                    member.state = "copying"
                    member.copied = done
                    member.toCopy = total
                }
                return member
            })
    }
}

/// What people are told of a volume.
struct VolumeSummary: Sendable {
    struct Member: Sendable {
        var resource: String
        var server: String?
        /// in_service, out or copying.
        var state: String
        var reason: String?
        /// Regions.
        var copied: Int?
        var toCopy: Int?
    }
    var name: String
    var unit: Int
    var kind: String
    /// Octets; nil: its members have not been asked.
    var capacity: UInt64?
    var trouble: String?
    /// Regions in which a mirror's members may differ.
    var changedRegions: Int?
    var regions: Int?
    var members: [Member]
}
