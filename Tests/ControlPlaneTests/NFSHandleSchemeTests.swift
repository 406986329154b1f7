import ControlPlane
import StorageProtocols
import TestSupport
import Testing

private func makeScheme(
    _ exports: [UInt32: NFSExport.Handles] = [1: .distinct, 2: .distinct], seed: UInt64 = 1,
    mappings: Int = 1_000, learned: Int = 1_000
) -> NFSHandleScheme {
    var result = NFSHandleScheme(seed: seed, mappings: mappings, learned: learned)
    result.update(exports)
    return result
}

@Suite struct NFSHandleSchemeTests {
    @Test func `a prefix where it fits, 32 octets where not`() {
        var scheme = makeScheme()
        for length in 0...64 {
            let server = (0..<length).map { UInt8($0) }
            let own = scheme.clientHandle(server[...], of: 2, version: .v3)
            #expect(own.count == (length <= 56 ? length + 8 : 32))
            if length <= 56 { #expect(Array(own.dropFirst(8)) == server) }
            #expect(own.field32(0) >> 4 == scheme.magic >> 4)
            #expect(own.field32(4) == 2)
            #expect(
                scheme.meaning(of: own[...], version: .v3) == .export(2, handle: server),
                "\(length)")
        }
    }

    @Test func `handles of version 2 have 32 octets and come back`() {
        var scheme = makeScheme()
        for first in UInt8(0)..<200 {
            let server = [first] + [UInt8](repeating: 9, count: 31)
            let own = scheme.clientHandle(server[...], of: 1, version: .v2)
            #expect(own.count == 32)
            #expect(own != server)
            #expect(scheme.meaning(of: own[...], version: .v2) == .export(1, handle: server))
            // The mapping is one for both versions.
            #expect(scheme.meaning(of: own[...], version: .v3) == .export(1, handle: server))
        }
    }

    @Test func `the same handle always, whatever the version and after a restart`() {
        let server = [UInt8](repeating: 5, count: 60)
        var first = makeScheme()
        let own = first.clientHandle(server[...], of: 1, version: .v3)
        #expect(first.clientHandle(server[...], of: 1, version: .v3) == own)
        #expect(first.clientHandle(server[...], of: 1, version: .v2) == own)
        var second = makeScheme()
        #expect(second.meaning(of: own[...], version: .v3) == .stale)
        #expect(second.clientHandle(server[...], of: 1, version: .v3) == own)
        #expect(second.meaning(of: own[...], version: .v3) == .export(1, handle: server))
    }

    @Test func `a prefix means the same after a restart, with the same seed`() {
        let server: [UInt8] = [1, 2, 3]
        var first = makeScheme()
        let own = first.clientHandle(server[...], of: 1, version: .v3)
        var second = makeScheme()
        #expect(second.meaning(of: own[...], version: .v3) == .export(1, handle: server))
        var other = makeScheme(seed: 2)
        #expect(other.magic != second.magic)
        #expect(other.meaning(of: own[...], version: .v3) == .foreign)
        #expect(first.magic & 0xff00_000f == 0xd500_0000)
    }

    @Test func `equal handles of two boxes are not equal for clients`() {
        var scheme = makeScheme()
        for length in [1, 28, 56, 57, 64] {
            let server = [UInt8](repeating: 5, count: length)
            let first = scheme.clientHandle(server[...], of: 1, version: .v3)
            let second = scheme.clientHandle(server[...], of: 2, version: .v3)
            #expect(first != second)
        }
        let server = [UInt8](repeating: 5, count: 32)
        let first = scheme.clientHandle(server[...], of: 1, version: .v2)
        let second = scheme.clientHandle(server[...], of: 2, version: .v2)
        #expect(first != second)
        #expect(scheme.fileSystemMask(1) != scheme.fileSystemMask(2))
        #expect(scheme.fileSystemMask(1) != 0)
        #expect(
            UInt32(truncatingIfNeeded: scheme.fileSystemMask(1))
                != UInt32(truncatingIfNeeded: scheme.fileSystemMask(2)))
    }

    @Test func `exports that are gone`() {
        var scheme = makeScheme()
        let octets = [UInt8](repeating: 1, count: 60)
        let short = scheme.clientHandle(octets[..<3], of: 1, version: .v3)
        let long = scheme.clientHandle(octets[...], of: 1, version: .v3)
        scheme.update([2: .distinct])
        #expect(scheme.meaning(of: short[...], version: .v3) == .stale)
        #expect(scheme.meaning(of: long[...], version: .v3) == .stale)
        // Another one with its number: what was learned of the old one is not for it.
        scheme.update([1: .distinct, 2: .distinct], forgotten: [1])
        #expect(scheme.meaning(of: long[...], version: .v3) == .stale)
    }

    @Test func `a version 2 handle must have 32 octets at the server`() {
        var scheme = makeScheme()
        let own = scheme.clientHandle([UInt8](repeating: 1, count: 24)[...], of: 1, version: .v3)
        #expect(own.count == 32)
        #expect(scheme.meaning(of: own[...], version: .v2) == .stale)
    }

    // MARK: Shared handles

    @Test func `shared handles pass as they are and are learned`() {
        var scheme = makeScheme([1: .shared, 2: .shared])
        let server = [UInt8](repeating: 5, count: 28)
        #expect(scheme.meaning(of: server[...], version: .v3) == .unknown)
        #expect(scheme.clientHandle(server[...], of: 2, version: .v3) == server)
        #expect(scheme.meaning(of: server[...], version: .v3) == .export(2, handle: server))
        scheme.learn([1], of: 1)
        #expect(scheme.meaning(of: [1], version: .v3) == .export(1, handle: [1]))
        #expect(scheme.fileSystemMask(1) == 0)
        // Its resource is another one now: servers are asked again.
        scheme.update([1: .shared])
        #expect(scheme.meaning(of: server[...], version: .v3) == .unknown)
        #expect(scheme.meaning(of: [], version: .v3) == .foreign)
    }

    @Test func `what is none of ours where nothing is shared`() {
        var scheme = makeScheme()
        for handle in [[], [1], [UInt8](repeating: 5, count: 64)] as [[UInt8]] {
            #expect(scheme.meaning(of: handle[...], version: .v3) == .foreign)
        }
    }

    @Test func `handles of both kinds side by side, and one that changes its kind`() {
        var scheme = makeScheme([1: .shared, 2: .distinct])
        let server = [UInt8](repeating: 5, count: 28)
        let distinct = scheme.clientHandle(server[...], of: 2, version: .v3)
        _ = scheme.clientHandle(server[...], of: 1, version: .v3)
        #expect(scheme.meaning(of: server[...], version: .v3) == .export(1, handle: server))
        #expect(scheme.meaning(of: distinct[...], version: .v3) == .export(2, handle: server))
        scheme.update([1: .shared, 2: .shared])
        #expect(scheme.meaning(of: distinct[...], version: .v3) == .export(2, handle: server))
    }

    // MARK: Bounds

    @Test func `what was not used for long is forgotten, what is used is not`() {
        var scheme = makeScheme([1: .distinct], mappings: 100)
        func server(_ number: Int) -> [UInt8] {
            [UInt8(number >> 8), UInt8(number & 0xff)] + [UInt8](repeating: 0, count: 30)
        }
        let first = scheme.clientHandle(server(0)[...], of: 1, version: .v2)
        let second = scheme.clientHandle(server(1)[...], of: 1, version: .v2)
        for number in 2..<1_000 {
            _ = scheme.clientHandle(server(number)[...], of: 1, version: .v2)
            _ = scheme.meaning(of: first[...], version: .v2)
        }
        #expect(scheme.meaning(of: first[...], version: .v2) == .export(1, handle: server(0)))
        #expect(scheme.meaning(of: second[...], version: .v2) == .stale)
    }

    @Test func `directories of ours`() {
        var scheme = makeScheme()
        let own = scheme.directoryHandle(0x1234_5678)
        #expect(own.count == 32)
        for version in NFSVersion.allCases {
            #expect(scheme.meaning(of: own[...], version: version) == .directory(0x1234_5678))
        }
        #expect(scheme.meaning(of: own.dropLast(), version: .v3) == .foreign)
    }

    @Test func `any octets`() {
        var random = SplitMix64(seed: 3)
        var scheme = makeScheme([1: .distinct, 2: .shared])
        for _ in 0..<20_000 {
            var handle = random.bytes(random.below(65))
            if random.below(2) == 0, handle.count >= 4 {
                let word = scheme.magic | UInt32(random.below(4))
                for place in 0..<4 {
                    handle[place] = UInt8(truncatingIfNeeded: word >> UInt32(24 - 8 * place))
                }
            }
            if random.below(2) == 0, handle.count >= 8 {
                handle.replaceSubrange(4..<8, with: [0, 0, 0, UInt8(random.below(4))])
            }
            for version in NFSVersion.allCases {
                guard
                    case .export(let index, let server) =
                        scheme.meaning(of: handle[...], version: version)
                else { continue }
                #expect([1, 2].contains(index) && server == Array(handle.dropFirst(8)))
            }
        }
    }
}

@Suite struct NFSRecentTableTests {
    @Test func `against a dictionary that forgets nothing`() {
        var random = SplitMix64(seed: 4)
        var table = NFSRecentTable<Int, Int>(maximum: 64)
        var model: [Int: Int] = [:]
        /// Keys in the order of their last use.
        var used: [Int] = []
        for step in 0..<20_000 {
            let key = random.below(200)
            switch random.below(4) {
            case 0:
                table.set(step, for: key)
                model[key] = step
                used.removeAll { $0 == key }
                used.append(key)
            case 1:
                table.remove(key)
                model[key] = nil
                used.removeAll { $0 == key }
            case 2: #expect(table.peek(key) == nil || table.peek(key) == model[key])
            default:
                let found = table.value(key)
                #expect(found == nil || found == model[key])
                // Among the last 32 that were used nothing is forgotten; removed ones are among them.
                if used.suffix(20).contains(key) { #expect(found == model[key]) }
                if found != nil {
                    used.removeAll { $0 == key }
                    used.append(key)
                }
            }
            #expect(table.count <= 64)
        }
        table.removeAll { key, _ in key % 2 == 0 }
        for key in 0..<200 where key % 2 == 0 { #expect(table.peek(key) == nil) }
    }
}

@Suite struct SipHashTests {
    /// Of the authors' program: key 00 01 ... 0f, input 00 01 ...
    @Test(arguments: [
        (0, "a3817f04ba25a8e66df67214c7550293"), (1, "da87c1d86b99af44347659119b22fc45"),
        (8, "3b62a9ba6258f5610f83e264f31497b4"), (15, "5493e99933b0a8117e08ec0f97cfc3d9"),
        (63, "5150d1772f50834a503e069a973fbd7c"),
    ])
    func vectors(length: Int, expected: String) {
        let value = SipHash.hash(
            (0..<length).map { UInt8($0) }, key: (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908))
        let text = value.octets.map { octet in
            (octet < 16 ? "0" : "") + String(octet, radix: 16)
        }.joined()
        #expect(text == expected)
    }
}
