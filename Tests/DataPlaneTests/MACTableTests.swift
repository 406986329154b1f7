import DataPlane
import TestSupport
import Testing

@Suite struct MACTableTests {
    private struct Model {
        var port: PortNumber
        var lastSeen: UInt64
    }

    @Test func againstADictionary() {
        var table = MACTable(capacity: 500)
        var model: [UInt64: Model] = [:]
        var random = SplitMix64(seed: 3)
        var notLearned: UInt64 = 0
        for round in 0..<60_000 {
            let now = UInt64(round)
            let mac = MACAddress(rawValue: 0x0200_0000_0000 | random.next() % 400)
            let vlan = UInt16(random.below(2))
            let key = UInt64(vlan) << 48 | mac.rawValue
            switch random.below(1_000) {
            case 0:
                table.expire(age: 700, now: now)
                model = model.filter { now - $0.value.lastSeen <= 700 }
            case 1:
                let port = PortNumber(random.below(5) + 1)
                table.expire(age: .max, now: now, port: port)
                model = model.filter { $0.value.port != port }
            default:
                let port = PortNumber(random.below(5) + 1)
                table.learn(mac, vlan: vlan, port: port, now: now)
                if model[key] != nil || model.count < 500 {
                    model[key] = Model(port: port, lastSeen: now)
                } else {
                    notLearned += 1
                }
            }
            let other = MACAddress(rawValue: 0x0200_0000_0000 | random.next() % 400)
            let found = table.port(of: other, vlan: vlan)
            if found != model[UInt64(vlan) << 48 | other.rawValue]?.port ?? 0 {
                Issue.record("round \(round)")
            }
            if table.count != model.count { Issue.record("count, round \(round)") }
        }
        #expect(notLearned > 0 && table.notLearned == notLearned)
        let entries = table.entries(now: 60_000)
        #expect(entries.count == model.count)
        for entry in entries {
            let wanted = model[UInt64(entry.vlan) << 48 | entry.mac.rawValue]
            #expect(wanted?.port == entry.port && wanted.map { 60_000 - $0.lastSeen } == entry.age)
        }
        table.removeAll()
        #expect(table.count == 0 && table.entries(now: 0).isEmpty)
    }

    @Test func movesAndAges() {
        var table = MACTable(capacity: 8)
        let mac = MACAddress(rawValue: 0x0200_0000_0001)
        table.learn(mac, vlan: 0, port: 1, now: 0)
        table.learn(mac, vlan: 5, port: 2, now: 50)
        #expect(table.port(of: mac, vlan: 0) == 1 && table.port(of: mac, vlan: 5) == 2)
        // Priority and the "tagged" bit are no part of the VLAN's number.
        #expect(table.port(of: mac, vlan: 0xf005) == 2)
        table.learn(mac, vlan: 0, port: 3, now: 10)
        #expect(table.port(of: mac, vlan: 0) == 3 && table.count == 2)
        table.expire(age: 100, now: 110)
        #expect(table.count == 2)
        table.expire(age: 100, now: 111)
        #expect(table.port(of: mac, vlan: 0) == 0 && table.port(of: mac, vlan: 5) == 2)
    }
}
