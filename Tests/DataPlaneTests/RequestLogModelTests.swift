import DataPlane
import TestSupport
import Testing

/// Random operations on a log, beside plain values that do the same.
@Suite struct RequestLogModelTests {
    private struct Model {
        struct Request {
            var id: UInt32
            var octets: [UInt8]
            var dataIn: [UInt8]?
            var transfer: [UInt8]?
        }
        struct Reply {
            var position: UInt32
            var length: UInt32
            var header: [UInt8]
            var closed: Request?
        }
        /// In the order in which they came.
        var open: [Request] = []
        var replies: [Reply] = []
        var position: UInt32 = .max - 100_000

        mutating func take(_ id: UInt32) -> Request? {
            guard let index = open.firstIndex(where: { $0.id == id }) else { return nil }
            return open.remove(at: index)
        }
    }

    private struct Run {
        var model = Model()
        let log: SessionLog
        var random: SplitMix64
        /// Few ids, far apart or dense: collisions in the hash, and ids that come again.
        let ids: [UInt32]

        init(seed: UInt64) {
            random = SplitMix64(seed: seed)
            log = SessionLog.iscsi(maximum: 64 << 20)
            var made = SplitMix64(seed: ~seed)
            let count = 30 + made.below(400)
            ids = (0..<count).map {
                seed % 2 == 0 ? UInt32($0) : UInt32(truncatingIfNeeded: made.next() | 1) &- 1
            }
        }

        mutating func open(_ id: UInt32) {
            let size = random.below(8) == 0 ? random.below(40_000) : random.below(400)
            let header = LogMessage.header(
                LogMessage.command, id: id, data: size,
                mark: UInt32(truncatingIfNeeded: random.next()))
            let data = random.bytes(size)
            log.client(header, data: data, piece: 1 + random.below(3_000))
            _ = model.take(id)
            model.open.append(.init(id: id, octets: header + data))
        }

        mutating func append(_ id: UInt32) {
            let size = random.below(6) == 0 ? random.below(30_000) : random.below(300)
            let header = LogMessage.header(LogMessage.dataOut, id: id, data: size)
            let data = random.bytes(size)
            log.client(header, data: data, piece: 1 + random.below(3_000))
            if let index = model.open.firstIndex(where: { $0.id == id }) {
                model.open[index].octets += header + data
            }
        }

        mutating func reply(_ id: UInt32) {
            let kind = [LogMessage.dataIn, LogMessage.readyToTransfer, LogMessage.response][
                random.below(3)]
            let isEnd =
                kind == LogMessage.response || kind == LogMessage.dataIn && random.below(3) == 0
            let header = LogMessage.header(
                kind, id: id, flags: isEnd ? 0x81 : 0x80,
                mark: UInt32(truncatingIfNeeded: random.next()))
            // Only what was kept below the ring's size.
            if !log.hasRoom { acknowledge(all: true) }
            let length = UInt32(48 + 4 * random.below(100))
            log.server(header, at: model.position, length: length)
            var closed: Model.Request?
            if let index = model.open.firstIndex(where: { $0.id == id }) {
                if kind == LogMessage.dataIn { model.open[index].dataIn = header }
                if kind == LogMessage.readyToTransfer { model.open[index].transfer = header }
                if isEnd { closed = model.open.remove(at: index) }
            }
            model.replies.append(
                .init(position: model.position, length: length, header: header, closed: closed))
            model.position &+= length
        }

        mutating func acknowledge(all: Bool = false) {
            let first = model.replies.first?.position ?? model.position
            let distance = model.position &- first
            let position =
                first &+ (all ? distance : UInt32(random.below(Int(distance) + 1)))
            log.delivered(SequenceNumber(position))
            model.replies.removeAll {
                Int32(bitPattern: position &- ($0.position &+ $0.length)) >= 0
            }
        }

        mutating func shift() {
            let distance = UInt32(truncatingIfNeeded: random.next())
            log.shiftReplies(by: distance)
            model.position &+= distance
            for index in model.replies.indices { model.replies[index].position &+= distance }
        }

        mutating func step() {
            let id = ids[random.below(ids.count)]
            switch random.below(40) {
            case 0..<14: if model.open.count + model.replies.count < 1_000 { open(id) }
            case 14..<20: append(id)
            case 20..<33: reply(id)
            case 33..<37: acknowledge()
            case 37, 38:
                log.remove(UInt64(id))
                _ = model.take(id)
            default: shift()
            }
        }

        func compare() -> Bool {
            let open = log.openRequests
            guard open.map(\.id) == model.open.map({ UInt64($0.id) }),
                open.map(\.octets) == model.open.map(\.octets),
                open.map(\.progress) == model.open.map({ [$0.dataIn, $0.transfer] }),
                open.allSatisfy({ $0.isOpen && $0.isWhole })
            else { return false }
            for id in ids {
                let found = log.openRequest(UInt64(id))?.octets
                guard found == model.open.first(where: { $0.id == id })?.octets else {
                    return false
                }
            }
            let kept = log.keptReplies
            // Of an answered request the first octets stay.
            return kept.map(\.position.rawValue) == model.replies.map(\.position)
                && kept.map(\.length) == model.replies.map(\.length)
                && kept.map(\.header) == model.replies.map(\.header)
                && zip(kept, model.replies).allSatisfy { mine, wanted in
                    (mine.closed == nil) == (wanted.closed == nil)
                        && mine.closed.map { $0.octets.count >= 48 } != false
                        && mine.closed.map { wanted.closed?.octets.starts(with: $0.octets) == true }
                            != false
                }
        }
    }

    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func randomOperations(seed: UInt64) {
        var run = Run(seed: seed)
        for step in 0..<4_000 {
            run.step()
            if step % 97 == 0, !run.compare() {
                Issue.record("seed \(seed), step \(step): log and model differ")
                return
            }
        }
        let isSame = run.compare()
        #expect(isSame)
        // Everything that was taken is free again.
        run.log.removeAll()
        #expect(run.log.statistics.bytes == 0 && run.log.statistics.open == 0)
        let opened = run.log.statistics.opened
        #expect(opened > 500)
    }

    /// The comparison can fail.
    @Test func aDifferenceIsNoticed() {
        var run = Run(seed: 3)
        for _ in 0..<300 { run.step() }
        let before = run.compare()
        #expect(before)
        run.log.client(LogMessage.header(LogMessage.command, id: 0x7fff_fff1))
        let after = run.compare()
        #expect(!after)
    }

    #if !DEBUG
        /// Requests with data, their answers and acknowledgements.
        @Test func nothingIsAllocated() {
            let log = SessionLog.iscsi()
            let header = UnsafeMutableRawPointer.allocate(byteCount: 48, alignment: 8)
            let data = UnsafeMutableRawPointer.allocate(byteCount: 30_000, alignment: 8)
            defer {
                header.deallocate()
                data.deallocate()
            }
            data.initializeMemory(as: UInt8.self, repeating: 7, count: 30_000)
            func fill(_ kind: UInt8, _ id: UInt32, _ flags: UInt8 = 0) {
                header.initializeMemory(as: UInt8.self, repeating: 0, count: 48)
                header.storeBytes(of: kind, as: UInt8.self)
                header.storeBytes(of: flags, toByteOffset: 1, as: UInt8.self)
                header.storeBytes(of: id.bigEndian, toByteOffset: 16, as: UInt32.self)
            }
            let used = allocations {
                var position: UInt32 = 0
                var number: UInt32 = 0
                for round in 0..<2_000 as Range<UInt32> {
                    for id in round..<round + 4 {
                        fill(LogMessage.command, id)
                        header.storeBytes(of: number.bigEndian, toByteOffset: 24, as: UInt32.self)
                        number &+= 1
                        log.log.pointee.clientHeader(header, kind: 1, now: UInt64(round))
                        log.log.pointee.data(data, 30_000)
                    }
                    fill(LogMessage.readyToTransfer, round)
                    log.log.pointee.serverMessage(
                        header, kind: 0x31, position: SequenceNumber(position), length: 48,
                        data: nil, now: UInt64(round))
                    fill(LogMessage.response, round)
                    log.log.pointee.serverMessage(
                        header, kind: 0x21, position: SequenceNumber(position &+ 48), length: 96,
                        data: (UnsafeRawPointer(data), 48), now: UInt64(round))
                    position &+= 144
                    log.log.pointee.acknowledged(SequenceNumber(position))
                }
            }
            #expect(used == 0)
            #expect(log.statistics.answered == 2_000)
        }
    #endif
}
