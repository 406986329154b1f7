import ControlPlane
import StorageProtocols
import Testing

@Suite("NFS: what a connection uses")
struct NFSStreamUsesTests {
    private func call(_ procedure: UInt32, _ handle: [UInt8]) -> [UInt8] {
        var arguments = XDRWriter()
        arguments.opaque(handle)
        arguments.uint32(0)
        return RPCMessage.call(
            xid: 7, program: NFSProgram.number, version: 3, procedure: procedure,
            arguments: arguments.bytes)
    }

    @Test func `handles are kept by resource`() {
        var uses = NFSStreamUses(at: 5)
        uses.use(call(6, [1, 2, 3]), resource: "e1", at: 10)
        uses.use(call(7, [4, 5, 6, 7]), resource: "e2", at: 11)
        uses.use(call(1, [1, 2, 3]), resource: "e1", at: 12)
        #expect(uses.otherAt == 5)
        #expect(uses.newest == "e1")
        let all = uses.handles { _ in true }
        #expect(all.resources == ["e1", "e2"])
        #expect(all.handles == [[1, 2, 3]: 0, [4, 5, 6, 7]: 1])
        let second = uses.handles { $0 == "e2" }
        #expect(second.resources == ["e2"])
        #expect(second.handles == [[4, 5, 6, 7]: 0])
    }

    @Test func `calls that cannot pass begin the time anew`() {
        var uses = NFSStreamUses(at: 5)
        // READDIRPLUS.
        uses.use(call(17, [1]), resource: "e1", at: 10)
        #expect(uses.otherAt == 10)
        #expect(uses.handles { _ in true }.handles.isEmpty)
        uses.use([1, 2, 3], resource: "e1", at: 11)
        #expect(uses.otherAt == 11)
        uses.useOther(at: 12)
        #expect(uses.otherAt == 12)
    }

    @Test func `resources and handles are bounded`() {
        var uses = NFSStreamUses(at: 0)
        for number in 0..<20 {
            uses.use(call(6, [UInt8(number)]), resource: "e\(number)", at: UInt64(number))
        }
        let kept = uses.handles { _ in true }
        #expect(kept.resources == (0..<16).map { "e\($0)" })
        #expect(kept.handles.count == 16)
        // Those of resources beyond are for the control plane.
        #expect(uses.otherAt == 19)
        for number in 0..<5_000 {
            uses.use(
                call(6, [UInt8(number >> 8), UInt8(number & 0xff), 9]), resource: "e0", at: 20)
        }
        let count = uses.handles { _ in true }.handles.count
        #expect(count <= 4_096 && count > 0)
    }

    @Test func `shares of what was counted add up`() {
        var left = NFSResourceStatistics()
        left.calls = 10
        left.replies = 9
        left.latencySum = .max
        left.callOctets = 1_001
        let whole = left
        var sum = NFSResourceStatistics()
        for (count, rest) in [(3, 10), (3, 7), (4, 4)] as [(UInt64, UInt64)] {
            let part = left.part(count, of: rest)
            left.subtract(part)
            sum.add(part)
        }
        #expect(sum == whole)
        #expect(left == NFSResourceStatistics())
        #expect(whole.part(1, of: 2).callOctets == 500)
    }
}
