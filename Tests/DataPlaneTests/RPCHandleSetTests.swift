import DataPlane
import TestSupport
import Testing

/// Which calls of a spliced NFS connection may pass.
@Suite struct RPCHandleSetTests {
    private typealias Judgement = RPCHandleSet.Judgement

    private let memory = FrameMemory()
    private static let handle = [UInt8](repeating: 0x42, count: 32)

    /// The octets lie at the end of a page: who reads behind them ends the test.
    private func judge(_ octets: [UInt8], _ set: RPCHandleSet) -> Judgement {
        set.judge(memory.frame(octets).start, length: octets.count)
    }

    /// Asks with the first 24 octets, then with as many as it needs. Nil: it never comes to an end, or asks for more
    /// than the record has.
    private func walk(_ record: [UInt8], _ set: RPCHandleSet) -> Judgement? {
        var length = 24
        for _ in 0..<7 {
            let judgement = judge(Array(record.prefix(length)), set)
            guard case .needs(let wanted) = judgement else { return judgement }
            guard wanted > length, wanted <= record.count else { return nil }
            length = wanted
        }
        return nil
    }

    /// Ends of what must be there one after the other, mark included.
    private func ends(_ message: NFSMessage) -> [Int] {
        func padded(_ count: Int) -> Int { (count + 3) / 4 * 4 }
        let verifier = 4 + 32 + padded(message.credential.count) + 8
        let length = verifier + padded(message.verifier.count) + 4
        return [36, verifier] + (message.version == 3 ? [length] : []) + [4 + message.handleEnd]
    }

    @Test(arguments: [2, 3] as [UInt32])
    func `every length of a call`(version: UInt32) {
        let set = RPCHandleSet([Self.handle: 7])
        for credential in [0, 1, 3, 4, 20, 399, 400] {
            for verifier in [0, 1, 8, 400] {
                var message = NFSMessage(version: version, handle: Self.handle)
                message.credential = [UInt8](repeating: 0xff, count: credential)
                message.verifier = [UInt8](repeating: 0xff, count: verifier)
                let record = message.record
                let ends = ends(message)
                for length in 24...record.count {
                    let wanted =
                        ends.first { $0 > length }.map { Judgement.needs($0) }
                        ?? .passes(resource: 7)
                    let found = judge(Array(record.prefix(length)), set)
                    if found != wanted {
                        Issue.record("\(credential), \(verifier), \(length): \(found)")
                    }
                }
            }
        }
    }

    @Test(arguments: [2, 3] as [UInt32])
    func `credentials and verifiers of every length`(version: UInt32) {
        let set = RPCHandleSet([Self.handle: 3])
        for length in 0...404 {
            for (credential, verifier) in [(length, 0), (20, length), (length, length)] {
                var message = NFSMessage(version: version, handle: Self.handle)
                message.credential = [UInt8](repeating: 9, count: credential)
                message.verifier = [UInt8](repeating: 9, count: verifier)
                let found = walk(message.record, set)
                let wanted: Judgement = length <= 400 ? .passes(resource: 3) : .foreign
                if found != wanted {
                    Issue.record("\(credential), \(verifier): \(String(describing: found))")
                }
            }
        }
    }

    @Test(arguments: [2, 3] as [UInt32])
    func procedures(version: UInt32) {
        let set = RPCHandleSet([Self.handle: 0])
        let taken = NFSMessage.splicedProcedures(version: version)
        for procedure in [UInt32](0..<70) + [1 << 31, .max] {
            let message = NFSMessage(version: version, procedure: procedure, handle: Self.handle)
            let found = walk(message.record, set)
            let wanted: Judgement = taken.contains(procedure) ? .passes(resource: 0) : .foreign
            #expect(found == wanted, "\(procedure)")
        }
    }

    @Test(arguments: NFSMessage.Refusal.all.indices)
    func foreign(index: Int) {
        let refusal = NFSMessage.Refusal.all[index]
        let set = RPCHandleSet([Self.handle: 0])
        var message = NFSMessage(handle: Self.handle)
        var found = walk(message.record, set)
        #expect(found == .passes(resource: 0))
        refusal.change(&message)
        found = walk(message.record, set)
        #expect(found == .foreign, "\(refusal.name)")
    }

    @Test func `AUTH_NONE`() {
        var message = NFSMessage(handle: Self.handle)
        message.credentialFlavor = 0
        message.credential = []
        let found = walk(message.record, RPCHandleSet([Self.handle: 15]))
        #expect(found == .passes(resource: 15))
    }

    /// Of a call in fragments only the last one would be seen.
    @Test func fragments() {
        let set = RPCHandleSet([Self.handle: 0])
        let call = NFSMessage(handle: Self.handle).call
        let found = walk(NFSMessage.record(call, isLast: false), set)
        #expect(found == .foreign)
    }

    /// What follows a record is not the end of its call.
    @Test(arguments: [2, 3] as [UInt32])
    func `records that end before the handle`(version: UInt32) {
        let set = RPCHandleSet([Self.handle: 0])
        let message = NFSMessage(version: version, handle: Self.handle)
        for told in 0...message.call.count {
            let record = bigEndian32(0x8000_0000 | UInt32(told)) + message.call
            let wanted: Judgement =
                told < message.handleEnd ? .foreign : .passes(resource: 0)
            let found = walk(record, set)
            let whole = judge(record, set)
            if found != wanted || whole != wanted {
                Issue.record("\(told): \(String(describing: found)), \(whole)")
            }
        }
        let longest = walk([0xff, 0xff, 0xff, 0xff] + message.call, set)
        #expect(longest == .passes(resource: 0))
    }

    /// LOOKUP of ".." may lead out of the export; other names, and other procedures with the same octets, do not.
    @Test(arguments: [2, 3] as [UInt32])
    func `the parent's name`(version: UInt32) {
        let lookup: UInt32 = version == 2 ? 4 : 3
        for length in version == 2 ? [32] : [1, 2, 3, 4, 30, 64] {
            let handle = [UInt8](repeating: 0x42, count: length)
            let set = RPCHandleSet([handle: 2])
            for name in ["..", ".", "", "a", ".x", "x.", "...", "export"] {
                let text = Array(name.utf8)
                var message = NFSMessage(version: version, procedure: lookup, handle: handle)
                message.arguments =
                    bigEndian32(UInt32(text.count)) + text
                    + [UInt8](repeating: 0, count: (4 - text.count % 4) % 4)
                var found = walk(message.record, set)
                #expect(
                    found == (name == ".." ? .foreign : .passes(resource: 2)),
                    "\(length), \(name)")
                // A record that ends before the length of the name does.
                let place = message.handleEnd + (4 - length % 4) % 4
                for told in message.handleEnd..<place + 4 {
                    found = walk(NFSMessage.record(Array(message.call[..<told])), set)
                    #expect(found == .foreign, "\(length), \(name), \(told)")
                }
                message.procedure = 1
                found = walk(message.record, set)
                #expect(found == .passes(resource: 2), "\(length), \(name)")
            }
        }
    }

    /// Where the handle of a call without record mark is.
    @Test(arguments: [2, 3] as [UInt32])
    func `the place of a handle`(version: UInt32) {
        var message = NFSMessage(version: version, handle: Self.handle)
        let place = message.handleEnd - 32..<message.handleEnd
        var found = RPCHandleSet.handle(of: message.call)
        #expect(found == place)
        found = RPCHandleSet.handle(of: Array(message.call[..<message.handleEnd]))
        #expect(found == place)
        for length in 0..<message.handleEnd {
            found = RPCHandleSet.handle(of: Array(message.call[..<length]))
            if found != nil { Issue.record("\(length)") }
        }
        message.procedure = 16
        found = RPCHandleSet.handle(of: message.call)
        #expect(found == nil)
    }

    // MARK: Handles

    private func handle(_ number: Int) -> [UInt8] {
        var random = SplitMix64(seed: UInt64(number))
        // Four octets tell them apart.
        return random.bytes(number % 61) + bigEndian32(UInt32(number))
    }

    private func find(_ handle: [UInt8], _ set: RPCHandleSet) -> Judgement? {
        walk(NFSMessage(handle: handle).record, set)
    }

    @Test func `as many as fit`() {
        let count = RPCHandleSet.capacity
        let all = Dictionary(uniqueKeysWithValues: (0..<count).map { (handle($0), $0 % 16) })
        let set = RPCHandleSet(all)
        #expect(set.count == count)
        for number in 0..<count {
            let found = find(handle(number), set)
            if found != .passes(resource: number % 16) { Issue.record("\(number)") }
        }
        let others = (count..<count * 2).count { find(handle($0), set) != .foreign }
        #expect(others == 0)
    }

    @Test func `more than fit`() {
        let all = (0..<RPCHandleSet.capacity + 900).map { handle($0) }
        let set = RPCHandleSet(Dictionary(uniqueKeysWithValues: all.map { ($0, 1) }))
        #expect(set.count == RPCHandleSet.capacity)
        let found = all.count { find($0, set) == .passes(resource: 1) }
        #expect(found == RPCHandleSet.capacity)
    }

    @Test func `none, and what is left out`() {
        let empty = RPCHandleSet([:])
        #expect(empty.count == 0)
        let nothing = find(Self.handle, empty)
        #expect(nothing == .foreign)
        let long = [UInt8](repeating: 1, count: 65)
        let set = RPCHandleSet([[]: 0, long: 0, [1]: -1, [2]: 16, [3]: 15, [4]: 0])
        #expect(set.count == 2)
        let found = [[1], [2], [3], [4]].map { find($0, set) }
        #expect(found == [.foreign, .foreign, .passes(resource: 15), .passes(resource: 0)])
    }

    /// All octets and the length count.
    @Test func `similar handles`() {
        var handles: [[UInt8]] = (1...64).map { [UInt8](repeating: 0, count: $0) }
        for place in 0..<64 {
            var handle = [UInt8](repeating: 0, count: 64)
            handle[place] = 1
            handles.append(handle)
        }
        for (index, missing) in handles.enumerated() {
            var all = Dictionary(uniqueKeysWithValues: handles.map { ($0, 2) })
            all[missing] = nil
            let set = RPCHandleSet(all)
            let found = find(missing, set)
            let next = find(handles[(index + 1) % handles.count], set)
            #expect(found == .foreign && next == .passes(resource: 2), "\(index)")
        }
    }

    @Test func counting() {
        let set = RPCHandleSet([Self.handle: 4])
        #expect(set.calls == [UInt64](repeating: 0, count: RPCHandleSet.resourceMaximum))
        for resource in [0, 4, 4, 15, -1, 16, .max, .min] { set.count(resource: resource) }
        var wanted = [UInt64](repeating: 0, count: RPCHandleSet.resourceMaximum)
        wanted[0] = 1
        wanted[4] = 2
        wanted[15] = 1
        #expect(set.calls == wanted)
        // Judging counts nothing.
        let found = find(Self.handle, set)
        #expect(found == .passes(resource: 4) && set.calls == wanted)
        #expect(set == set)
        #expect(set != RPCHandleSet([Self.handle: 4]))
    }

    /// Any octets: an answer, and needs that the record can meet.
    @Test func garbage() {
        var random = SplitMix64(seed: 11)
        let set = RPCHandleSet([Self.handle: 0])
        var (passed, waiting) = (0, 0)
        for round in 0..<60_000 {
            var octets: [UInt8]
            if round % 4 == 0 {
                octets = random.bytes(24 + random.below(200))
                octets[0] |= 0x80
            } else {
                octets = NFSMessage(version: round % 2 == 0 ? 2 : 3, handle: Self.handle).record
                for _ in 0..<random.below(3) {
                    octets[random.below(octets.count)] = UInt8(truncatingIfNeeded: random.next())
                }
                octets = Array(octets.prefix(24 + random.below(octets.count)))
            }
            let told = octets[..<4].reduce(0) { $0 << 8 | Int($1) } & 0x7fff_ffff
            switch judge(octets, set) {
            case .needs(let wanted):
                waiting += 1
                if wanted <= octets.count || wanted > 4 + told || wanted > 1_024 {
                    Issue.record("round \(round): \(wanted) of \(octets.count)")
                }
            case .passes: passed += 1
            case .foreign: break
            }
        }
        #expect(passed > 5_000 && waiting > 5_000)
    }
}
