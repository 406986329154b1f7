import DataPlane
import TestSupport
import Testing

@Suite struct RequestLogTests {
    private typealias Message = LogMessage

    @Test func lifeOfARead() throws {
        let log = SessionLog.iscsi()
        let command = Message.header(Message.command, id: 7)
        log.client(command, now: 1_000)
        #expect(log.openCount == 1)
        #expect(log.statistics.oldest == 1_000)
        let dataIn = Message.header(Message.dataIn, id: 7, data: 512, mark: 3)
        log.server(dataIn, at: 100, length: 560)
        let open = try #require(log.openRequest(7))
        #expect(open.octets == command && open.isOpen && open.isWhole)
        #expect(open.progress[0] == dataIn && open.progress[1] == nil)
        let answer = Message.header(Message.response, id: 7)
        log.server(answer, at: 660, now: 51_000)
        #expect(log.openCount == 0 && log.openRequest(7) == nil)
        #expect(log.statistics.oldest == 0)
        #expect(log.statistics.latencySum == 50_000 && log.statistics.answered == 1)
        // 50 µs is below 2^2 * 16.4 µs.
        #expect(log.statistics.histogram[2] == 1)
        // Both replies stay until the client has them, with the request that the second ended.
        var kept = log.keptReplies
        #expect(kept.map(\.position.rawValue) == [100, 660])
        #expect(kept[0].closed == nil && kept[0].header == dataIn && kept[0].length == 560)
        #expect(kept[1].closed?.octets == command && kept[1].closed?.isOpen == false)
        #expect(kept[1].closed?.progress[0] == dataIn)
        log.delivered(SequenceNumber(659))
        #expect(log.keptReplies.count == 2)
        log.delivered(SequenceNumber(660))
        kept = log.keptReplies
        #expect(kept.map(\.position.rawValue) == [660])
        log.delivered(SequenceNumber(708))
        #expect(log.keptReplies.isEmpty)
        #expect(log.statistics.bytes == 0)
    }

    @Test(arguments: [0, 1, 207, 208, 209, 16_367, 16_368, 16_369, 16_576, 33_000, 70_001])
    func dataAcrossBlocks(size: Int) throws {
        var random = SplitMix64(seed: UInt64(size))
        let log = SessionLog.iscsi()
        let command = Message.header(Message.command, id: 1, data: size)
        let data = random.bytes(size)
        log.client(command, data: data, piece: 1 + random.below(5_000))
        var expected = command + data
        for _ in 0..<3 {
            let part = random.bytes(size)
            let header = Message.header(Message.dataOut, id: 1, data: size)
            log.client(header, data: part, piece: 1 + random.below(5_000))
            expected += header + part
        }
        let open = try #require(log.openRequest(1))
        #expect(open.octets == expected)
        #expect(open.isWhole)
        #expect(log.statistics.bytes == UInt64(expected.count))
    }

    /// RFC 7143 section 4.2.2.1: a number that was used before is ignored by servers. The answer that does not
    /// come must not look like a lost one.
    @Test func usedNumbersOpenNothing() throws {
        func numbered(_ id: UInt32, _ number: UInt32, flags: UInt8 = 0) -> [UInt8] {
            var header = Message.header(Message.command, id: id)
            header[0] = Message.command | flags
            Message.put(number, into: &header, at: 24)
            return header
        }
        let log = SessionLog.iscsi()
        log.client(numbered(1, 0xffff_ffff))
        log.client(numbered(2, 0))
        log.client(numbered(3, 0))
        log.client(numbered(4, 0xffff_ff00), data: [1, 2, 3, 4])
        log.client(numbered(5, 0, flags: 0x40))
        #expect(log.openRequests.map(\.id) == [1, 2, 5])
        #expect(log.newestOpening == numbered(5, 0, flags: 0x40))
        log.client(numbered(6, 1))
        // A tag in use does not lose its request to one that is ignored.
        log.client(numbered(6, 1), data: [9])
        #expect(log.openRequest(6)?.octets == numbered(6, 1))
        // What is taken out to be told anew counts anew.
        log.client(numbered(7, 2), data: [1, 2])
        #expect(log.takeCurrent() == numbered(7, 2) + [1, 2])
        log.client(numbered(7, 2), data: [1, 2, 3])
        #expect(log.openRequests.map(\.id) == [1, 2, 5, 6, 7])
        // Another connection counts from elsewhere.
        log.removeAll()
        log.client(numbered(1, 0x8000_0003))
        #expect(log.openCount == 1)
    }

    @Test func whatOpensWhatContinuesWhatIsNothing() {
        let log = SessionLog.iscsi()
        // Data for a request that is not there, a kind that is none, an id that names none.
        log.client(Message.header(Message.dataOut, id: 1, data: 4), data: [1, 2, 3, 4])
        log.client(Message.header(0x04, id: 2))
        log.client(Message.header(0x10, id: 2))
        log.client(Message.header(Message.nopOut, id: .max))
        #expect(log.openCount == 0)
        for (index, kind) in [0x00, 0x01, 0x02, 0x06].enumerated() {
            log.client(Message.header(UInt8(kind), id: UInt32(index)))
        }
        #expect(log.openRequests.map(\.kind) == [0, 1, 2, 6])
        // None of these is an answer.
        log.server(Message.header(Message.dataIn, id: 1), at: 0)
        log.server(Message.header(Message.readyToTransfer, id: 1), at: 48)
        log.server(Message.header(Message.nopIn, id: .max), at: 96)
        log.server(Message.header(0x32, id: .max), at: 144)
        #expect(log.openCount == 4)
        log.server(Message.header(Message.nopIn, id: 0), at: 192)
        log.server(Message.header(Message.dataIn, id: 1, flags: 0x81), at: 240)
        log.server(Message.header(0x22, id: 2), at: 288)
        log.server(Message.header(0x26, id: 3), at: 336)
        #expect(log.openCount == 0)
    }

    @Test func rejectNamesItsRequestInItsData() {
        let log = SessionLog.iscsi()
        log.client(Message.header(Message.command, id: 1))
        log.client(Message.header(Message.command, id: 2))
        let reject = Message.header(Message.reject, id: .max, data: 48)
        // Without its data, or with too little, nobody knows what is rejected.
        log.server(reject, at: 0, length: 96)
        log.server(reject, at: 96, length: 60, data: [UInt8](repeating: 0, count: 12))
        #expect(log.openCount == 2)
        log.server(
            reject, at: 200, length: 96, data: Message.header(Message.command, id: 2))
        #expect(log.openRequests.map(\.id) == [1])
        #expect(log.keptReplies.last?.closed?.id == 2)
        #expect(log.keptReplies.last?.data == Message.header(Message.command, id: 2))
    }

    /// StatSN of an answer counts whether or not the log knows the request.
    @Test(arguments: [0x21, 0x22, 0x26, 0x25] as [UInt8])
    func answersWithoutARequestCarryCounters(kind: UInt8) {
        let log = SessionLog.iscsi()
        log.server(Message.header(Message.nopIn, id: .max, mark: 5), at: 0)
        let answer = Message.header(kind, id: 99, flags: 0x81, mark: 6)
        log.server(answer, at: 48)
        #expect(log.newestCounted == answer)
        // A Data-In without status has no StatSN.
        log.server(Message.header(Message.dataIn, id: 99, flags: 0x80), at: 96)
        #expect(log.newestCounted == answer)
    }

    // MARK: Limits

    @Test func limitOfASession() throws {
        let budget = RequestLogBudget(maximum: 64 << 20)
        let log = SessionLog.iscsi(maximum: 256 << 10, budget: budget)
        let data = [UInt8](repeating: 5, count: 200_000)
        log.client(Message.header(Message.command, id: 1, data: data.count), data: data)
        log.client(Message.header(Message.command, id: 2, data: data.count), data: data)
        #expect(log.openRequests.map(\.isWhole) == [true, false])
        #expect(log.statistics.unprotected == 1 && log.statistics.unprotectedTotal == 1)
        // The header of the one that found no room is kept: somebody must answer it.
        let lost = try #require(log.openRequest(2))
        #expect(Array(lost.octets.prefix(48)) == Message.header(1, id: 2, data: data.count))
        // Small ones are protected still; the large one is answered as any other.
        log.client(Message.header(Message.command, id: 3))
        #expect(log.openRequest(3)?.isWhole == true)
        for (index, id) in [1, 2, 3].enumerated() {
            log.server(Message.header(Message.response, id: UInt32(id)), at: UInt32(index) * 48)
        }
        #expect(log.openCount == 0 && log.statistics.unprotected == 0)
        // There is room again.
        log.client(Message.header(Message.command, id: 2, data: data.count), data: data)
        #expect(log.openRequest(2)?.isWhole == true)
        #expect(log.openRequest(2)?.octets.count == 200_048)
        #expect(log.statistics.unprotectedTotal == 1)
        #expect(budget.inUse == 256 << 10)
    }

    @Test func limitOfTheBudget() {
        let budget = RequestLogBudget(maximum: 512 << 10)
        let data = [UInt8](repeating: 5, count: 300_000)
        func fill(_ log: SessionLog) -> Bool {
            log.client(Message.header(Message.command, id: 1, data: data.count), data: data)
            return log.openRequest(1)?.isWhole == true
        }
        var logs = [SessionLog.iscsi(budget: budget), SessionLog.iscsi(budget: budget)]
        #expect(fill(logs[0]))
        #expect(!fill(logs[1]))
        #expect(budget.inUse == 512 << 10)
        // What the first gives back the second can have.
        logs[0].server(Message.header(Message.response, id: 1), at: 0)
        logs[0].log.pointee.trim()
        #expect(budget.inUse == 512 << 10, "kept replies")
        logs[0].delivered(SequenceNumber(48))
        logs[0].log.pointee.trim()
        #expect(budget.inUse == 0)
        #expect(fill(logs[1]))
        // And the first works on after a trim.
        logs.remove(at: 1)
        #expect(budget.inUse == 0)
        #expect(fill(logs[0]))
        #expect(logs[0].openRequest(1)?.octets.suffix(300_000).elementsEqual(data) == true)
        logs = []
        #expect(budget.inUse == 0)
    }

    @Test func moreRequestsThanRecords() {
        let log = SessionLog.iscsi()
        for id in 0..<1_100 as Range<UInt32> { log.client(Message.header(1, id: id)) }
        #expect(log.openCount == 1_024)
        #expect(log.statistics.unprotectedTotal == 76)
        // Data of one without a record goes nowhere.
        log.client(Message.header(Message.dataOut, id: 1_050, data: 4), data: [1, 2, 3, 4])
        #expect(log.openRequests.allSatisfy { $0.octets.count == 48 })
        for id in 0..<1_100 as Range<UInt32> {
            log.server(Message.header(Message.response, id: id), at: id * 48)
        }
        #expect(log.openCount == 0)
        // Records of answered ones are free once the client has the answers.
        log.client(Message.header(1, id: 5_000))
        #expect(log.openCount == 0)
        log.delivered(SequenceNumber(1_100 * 48))
        log.client(Message.header(1, id: 5_001))
        #expect(log.openRequests.map(\.id) == [5_001])
    }

    // MARK: Ids

    @Test func idUsedAnewWhileTheAnswerIsKept() {
        let log = SessionLog.iscsi()
        log.client(Message.header(Message.command, id: 1, mark: 10))
        log.server(Message.header(Message.response, id: 1), at: 0)
        log.client(Message.header(Message.command, id: 1, mark: 11))
        #expect(log.openRequest(1)?.octets == Message.header(Message.command, id: 1, mark: 11))
        #expect(
            log.keptReplies[0].closed?.octets == Message.header(Message.command, id: 1, mark: 10))
        log.delivered(SequenceNumber(48))
        #expect(log.openRequest(1)?.octets == Message.header(Message.command, id: 1, mark: 11))
    }

    @Test func idUsedAnewWhileOpen() {
        let log = SessionLog.iscsi()
        log.client(Message.header(Message.command, id: 1, data: 4, mark: 10), data: [1, 2, 3, 4])
        log.client(Message.header(Message.command, id: 2))
        log.client(Message.header(Message.command, id: 1, mark: 11))
        #expect(log.openRequests.map(\.id) == [2, 1])
        #expect(log.openRequest(1)?.octets == Message.header(Message.command, id: 1, mark: 11))
        #expect(log.statistics.bytes == 96 && log.statistics.open == 2)
    }

    @Test func removed() {
        let log = SessionLog.iscsi()
        for id in 1...3 as ClosedRange<UInt32> { log.client(Message.header(1, id: id)) }
        log.remove(2)
        log.remove(99)
        #expect(log.openRequests.map(\.id) == [1, 3])
        log.remove(3)
        log.remove(1)
        #expect(log.openCount == 0 && log.statistics.bytes == 0 && log.statistics.oldest == 0)
        // Data that still comes for it goes nowhere.
        log.client(Message.header(Message.command, id: 4, data: 8), data: [1])
        log.remove(4)
        [UInt8](repeating: 9, count: 7).withUnsafeBytes { log.clientData($0) }
        log.client(Message.header(Message.command, id: 5))
        #expect(log.openRequests.map(\.octets) == [Message.header(Message.command, id: 5)])
    }

    // MARK: Messages on their way

    @Test(arguments: [0, 1, 300, 20_000])
    func takeCurrentOfACommand(arrived: Int) {
        let log = SessionLog.iscsi()
        let header = Message.header(Message.command, id: 1, data: 40_000)
        let data = SplitMix64.octets(arrived, seed: 3)
        log.client(header, data: data)
        #expect(log.takeCurrent() == header + data)
        #expect(log.openCount == 0 && log.statistics.bytes == 0)
        #expect(log.takeCurrent() == nil)
        // Told anew, as a whole.
        let whole = data + SplitMix64.octets(40_000 - arrived, seed: 4)
        log.client(header, data: whole)
        #expect(log.openRequest(1)?.octets == header + whole)
    }

    @Test(arguments: [0, 1, 150, 300, 20_000], [0, 200, 30_000])
    func takeCurrentOfData(arrived: Int, immediate: Int) {
        let log = SessionLog.iscsi()
        let command = Message.header(Message.command, id: 1, data: immediate)
        let first = SplitMix64.octets(immediate, seed: 5)
        log.client(command, data: first)
        let header = Message.header(Message.dataOut, id: 1, data: 40_000)
        let data = SplitMix64.octets(arrived, seed: 6)
        log.client(header, data: data)
        #expect(log.takeCurrent() == header + data)
        #expect(log.openRequest(1)?.octets == command + first)
        #expect(log.statistics.bytes == UInt64(48 + immediate))
        let whole = data + SplitMix64.octets(40_000 - arrived, seed: 7)
        log.client(header, data: whole, piece: 1_000)
        #expect(log.openRequest(1)?.octets == command + first + header + whole)
    }

    @Test func takeCurrentOfNothing() {
        let log = SessionLog.iscsi(maximum: 16 << 10)
        #expect(log.takeCurrent() == nil)
        log.client(Message.header(Message.command, id: 1, data: 40_000))
        log.client(Message.header(Message.dataOut, id: 9, data: 10), data: [1])
        #expect(log.takeCurrent() == nil, "a message of no request")
        log.client(
            Message.header(Message.command, id: 2, data: 40_000),
            data: [UInt8](repeating: 1, count: 39_000))
        #expect(log.openRequest(2)?.isWhole == false)
        #expect(log.takeCurrent() == nil, "a message that found no room")
        #expect(log.openRequests.map(\.id) == [1, 2])
    }

    // MARK: Replies

    @Test func replyRing() {
        let log = SessionLog.iscsi()
        for index in 0..<4_096 as Range<UInt32> {
            #expect(log.hasRoom)
            log.server(Message.header(Message.nopIn, id: .max, mark: index), at: index * 48)
        }
        #expect(!log.hasRoom)
        log.delivered(SequenceNumber(47))
        #expect(!log.hasRoom)
        log.delivered(SequenceNumber(96))
        #expect(log.hasRoom)
        #expect(log.keptReplies.count == 4_094)
        #expect(log.keptReplies.first?.position == SequenceNumber(96))
        #expect(log.newestCounted == Message.header(Message.nopIn, id: .max, mark: 4_095))
    }

    /// Positions go around 2^32, and count from elsewhere after a shift.
    @Test func positionsWrapAndShift() {
        let log = SessionLog.iscsi()
        let start = UInt32.max - 60
        for index in 0..<3 as Range<UInt32> {
            log.server(
                Message.header(Message.response, id: index), at: start &+ index * 48)
        }
        log.delivered(SequenceNumber(start &+ 96))
        #expect(log.keptReplies.map(\.position.rawValue) == [start &+ 96])
        log.shiftReplies(by: 0 &- start)
        #expect(log.keptReplies.map(\.position.rawValue) == [96])
        log.delivered(SequenceNumber(143))
        #expect(log.keptReplies.count == 1)
        log.delivered(SequenceNumber(144))
        #expect(log.keptReplies.isEmpty)
    }

    @Test func removeAll() {
        let budget = RequestLogBudget(maximum: 64 << 20)
        let log = SessionLog.iscsi(budget: budget)
        let data = [UInt8](repeating: 1, count: 50_000)
        for round in 0..<50 {
            for id in 0..<20 as Range<UInt32> {
                log.client(Message.header(1, id: id, data: data.count), data: data)
                if id % 3 == 0 {
                    log.server(
                        Message.header(Message.response, id: id, data: 60), at: id * 200,
                        length: 108, data: [UInt8](repeating: 2, count: 60))
                }
            }
            log.removeAll()
            #expect(log.openCount == 0 && log.keptReplies.isEmpty && log.statistics.bytes == 0)
            #expect(budget.inUse <= 2 << 20, "round \(round): memory is used again")
        }
        log.log.pointee.trim()
        #expect(budget.inUse == 0)
    }
}

extension SplitMix64 {
    static func octets(_ count: Int, seed: UInt64) -> [UInt8] {
        var random = SplitMix64(seed: seed)
        return random.bytes(count)
    }
}
