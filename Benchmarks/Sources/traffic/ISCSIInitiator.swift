import Glibc

/// SCSI reads or writes of one size over one session, always the same number of them open.
struct ISCSILoad {
    var isWrite: Bool
    var size: Int
    var depth = 16
    /// The median of what a request takes is wanted, not their number.
    var isLatency = false
    var target = ISCSITerms.target
    /// Logical units, in turn.
    var units: [UInt16] = [0]

    init?(_ kind: String) {
        switch kind {
        case "read256k": self.init(isWrite: false, size: 256 << 10)
        case "write256k": self.init(isWrite: true, size: 256 << 10)
        case "read4k": self.init(isWrite: false, size: 4 << 10)
        case "write4k": self.init(isWrite: true, size: 4 << 10)
        case "latency4k":
            self.init(isWrite: false, size: 4 << 10)
            depth = 1
            isLatency = true
        default: return nil
        }
    }

    private init(isWrite: Bool, size: Int) {
        self.isWrite = isWrite
        self.size = size
    }

    /// Large requests in Gbit/s of SCSI data, small ones in thousands a second.
    func run(_ remote: sockaddr_in, seconds: Double) -> Measurement {
        let initiator = Initiator(self, remote)
        initiator.logIn()
        initiator.start()
        // A redirector splices the session meanwhile.
        initiator.run(until: now() + 0.5)
        initiator.latencies = []
        let (done, cpu, start) = (initiator.completed, machineCPU(), now())
        initiator.run(until: start + seconds)
        let elapsed = now() - start
        let requests = Double(initiator.completed - done)
        let spent = machineCPU() - cpu
        guard requests > 0 else { fail("no request was answered") }
        if isLatency {
            let sorted = initiator.latencies.sorted()
            return Measurement(value: sorted[sorted.count / 2] * 1e6)
        }
        let octets = requests * Double(size)
        guard size >= 64 << 10 else { return Measurement(value: requests / elapsed / 1_000) }
        return Measurement(
            value: octets * 8 / elapsed / 1e9, cpuPerGigabyte: spent / (octets / 1e9))
    }
}

private final class Initiator {
    private let load: ISCSILoad
    private let stream: ISCSIStream
    private var isLoggedIn = false
    private var command: UInt32 = 1
    private var expectedStatus: UInt32 = 0
    /// Octets of data that came for the read with this task tag.
    private var received: [Int]
    private var started: [Double]
    var latencies: [Double] = []
    private var turn = 0
    private var block: UInt32 = 0
    private(set) var completed = 0

    init(_ load: ISCSILoad, _ remote: sockaddr_in) {
        self.load = load
        received = Array(repeating: 0, count: load.depth)
        started = Array(repeating: 0, count: load.depth)
        let descriptor = makeSocket()
        connectSocket(descriptor, remote)
        stream = ISCSIStream(descriptor)
    }

    private func refuse(_ what: String) -> Never {
        errno = EPROTO
        fail("initiator: \(what)")
    }

    /// Works for its connection until the given time.
    func run(until end: Double, unless isOver: () -> Bool = { false }) {
        while now() < end, !isOver() {
            let events = stream.hasOutput ? POLLIN | POLLOUT : POLLIN
            var watched = pollfd(fd: stream.descriptor, events: Int16(events), revents: 0)
            guard poll(&watched, 1, 100) > 0 else { continue }
            guard stream.receive(take), stream.flush() else { refuse("the connection ended") }
        }
    }

    // MARK: Login

    private static let terms = [
        ("HeaderDigest", "None"), ("DataDigest", "None"), ("InitialR2T", "No"),
        ("ImmediateData", "Yes"), ("MaxBurstLength", "\(ISCSITerms.maxBurst)"),
        ("FirstBurstLength", "\(ISCSITerms.firstBurst)"), ("MaxOutstandingR2T", "1"),
        ("DataPDUInOrder", "Yes"), ("DataSequenceInOrder", "Yes"), ("DefaultTime2Wait", "2"),
        ("DefaultTime2Retain", "20"), ("ErrorRecoveryLevel", "0"), ("MaxConnections", "1"),
        ("MaxRecvDataSegmentLength", "\(ISCSITerms.maxReceive)"),
    ]

    /// From the operational stage to full feature phase at once: no authentication.
    func logIn() {
        let names = [
            ("InitiatorName", ISCSITerms.initiator), ("TargetName", load.target),
            ("SessionType", "Normal"),
        ]
        stream.send(0x43, flags: 0x87, small: ISCSILoginText.encode(names + Self.terms)) {
            // A random ISID: one used again would end the session before (RFC 7143 section 6.3.5).
            $0.set8(0x80, 8)
            $0.set32(UInt32.random(in: 0 ... .max), 10)
            $0.set32(command, 24)
        }
        guard stream.flush() else { refuse("cannot log in") }
        run(until: now() + 10) { isLoggedIn }
        guard isLoggedIn else { refuse("login without an answer") }
    }

    private func finishLogin(_ pdu: UnsafeMutableRawPointer) {
        guard pdu.field8(0) & 0x3f == 0x23, pdu.field16(36) == 0, pdu.field8(1) == 0x87 else {
            refuse("login status 0x\(String(pdu.field16(36), radix: 16))")
        }
        let answered = ISCSILoginText.decode(stream.text)
        for (key, value) in Self.terms {
            guard answered.contains(where: { $0 == (key, value) }) else {
                refuse("\(key) is not agreed to as \(value)")
            }
        }
        guard pdu.field32(32) &- pdu.field32(28) &+ 1 >= UInt32(load.depth) else {
            refuse("command window too small")
        }
        expectedStatus = pdu.field32(24) &+ 1
        isLoggedIn = true
    }

    // MARK: Requests

    func start() {
        for tag in 0..<load.depth { issue(UInt32(tag)) }
        guard stream.flush() else { refuse("the connection ended") }
    }

    private func issue(_ tag: UInt32) {
        received[Int(tag)] = 0
        started[Int(tag)] = now()
        let unit = load.units[turn % load.units.count]
        turn += 1
        let immediate = load.isWrite ? min(load.size, ISCSITerms.firstBurst) : 0
        // Final, simple task attribute; no unsolicited data beside the immediate one.
        stream.send(0x01, flags: load.isWrite ? 0xa1 : 0xc1, bulk: immediate) {
            $0.set16(unit, 8)
            $0.set32(tag, 16)
            $0.set32(UInt32(load.size), 20)
            $0.set32(command, 24)
            $0.set32(expectedStatus, 28)
            $0.set8(load.isWrite ? 0x2a : 0x28, 32)
            $0.set32(block, 34)
            $0.set16(UInt16(load.size / ISCSITerms.blockSize), 39)
        }
        command &+= 1
        block = (block &+ UInt32(load.size / ISCSITerms.blockSize)) & 0x3fff_ffff
    }

    private func take(_ pdu: UnsafeMutableRawPointer) {
        guard isLoggedIn else { return finishLogin(pdu) }
        let opcode = pdu.field8(0) & 0x3f
        let tag = pdu.field32(16)
        if opcode == 0x20 { return answerPing(pdu) }
        guard tag < UInt32(load.depth) else {
            refuse("PDU 0x\(String(opcode, radix: 16)) of task \(tag)")
        }
        switch opcode {
        case 0x25:
            received[Int(tag)] += stream.dataLength
            if pdu.field8(1) & 1 != 0 { finish(pdu, tag) }
        case 0x21: finish(pdu, tag)
        case 0x31: sendData(pdu, tag)
        default: refuse("PDU 0x\(String(opcode, radix: 16))")
        }
    }

    private func finish(_ pdu: UnsafeMutableRawPointer, _ tag: UInt32) {
        guard pdu.field8(3) == 0 else { refuse("SCSI status \(pdu.field8(3))") }
        guard pdu.field32(24) == expectedStatus else { refuse("StatSN out of order") }
        guard load.isWrite || received[Int(tag)] == load.size else {
            refuse("\(received[Int(tag)]) octets instead of \(load.size)")
        }
        expectedStatus &+= 1
        completed += 1
        if load.isLatency { latencies.append(now() - started[Int(tag)]) }
        issue(tag)
    }

    /// What an R2T asks for.
    private func sendData(_ pdu: UnsafeMutableRawPointer, _ tag: UInt32) {
        let start = Int(pdu.field32(40))
        let total = Int(pdu.field32(44))
        guard load.isWrite, start + total <= load.size else { refuse("R2T beyond the request") }
        var offset = 0
        var sequence: UInt32 = 0
        while offset < total {
            let count = min(total - offset, ISCSITerms.maxReceive)
            stream.send(0x05, flags: offset + count == total ? 0x80 : 0, bulk: count) {
                $0.set32(tag, 16)
                $0.set32(pdu.field32(20), 20)
                $0.set32(expectedStatus, 28)
                $0.set32(sequence, 36)
                $0.set32(UInt32(start + offset), 40)
            }
            offset += count
            sequence += 1
        }
    }

    private func answerPing(_ pdu: UnsafeMutableRawPointer) {
        guard pdu.field32(20) != .max else { return }
        stream.send(0x40, flags: 0x80) {
            $0.set32(.max, 16)
            $0.set32(pdu.field32(20), 20)
            $0.set32(command, 24)
            $0.set32(expectedStatus, 28)
        }
    }
}
