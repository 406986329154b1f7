/// What is kept, for whoever has to finish it.
extension RequestLog {
    package var newestOpening: [UInt8]? {
        hasOpening ? Self.copy(newestHeaders, headerLength) : nil
    }
    package var newestCounted: [UInt8]? {
        hasCounted ? Self.copy(newestHeaders + MessageTracker.headerMaximum, headerLength) : nil
    }

    private static func copy(_ start: UnsafeRawPointer, _ count: Int) -> [UInt8] {
        Array(UnsafeRawBufferPointer(start: start, count: count))
    }

    func octets(_ slot: UInt16) -> [UInt8] {
        let entry = request(slot).pointee
        let count = Int(entry.count)
        var result: [UInt8] = []
        result.reserveCapacity(count)
        result += UnsafeRawBufferPointer(start: inline(slot), count: min(count, Self.inlineSize))
        var number = entry.firstBlock
        while number != 0, result.count < count {
            result += UnsafeRawBufferPointer(
                start: block(number) + Self.blockHeader,
                count: min(Self.blockRoom, count - result.count))
            number = block(number).load(as: UInt32.self)
        }
        return result
    }

    func logged(_ slot: UInt16) -> LoggedRequest {
        let entry = request(slot).pointee
        return LoggedRequest(
            id: entry.id, kind: entry.kind, startedAt: entry.startedAt, isOpen: entry.isOpen,
            isWhole: entry.isWhole, octets: octets(slot),
            progress: (0..<RequestRules.progressMaximum).map {
                entry.progress >> UInt8($0) & 1 != 0
                    ? Self.copy(progress(slot, $0), headerLength) : nil
            })
    }

    /// Open requests in the order in which they came.
    package func openRequests() -> [LoggedRequest] {
        var result: [LoggedRequest] = []
        var slot = oldest
        while slot != Self.none {
            result.append(logged(slot))
            slot = request(slot).pointee.next
        }
        return result
    }

    /// Replies that the client may not have whole, in the order of the stream.
    package func keptReplies() -> [LoggedReply] {
        var result: [LoggedReply] = []
        var index = replyHead
        while index != replyTail {
            let entry = reply(index).pointee
            result.append(
                LoggedReply(
                    position: entry.position, length: entry.length,
                    header: Self.copy(replyHeader(index), headerLength),
                    data: entry.block == 0
                        ? nil
                        : Self.copy(block(entry.block) + Self.blockHeader, Int(entry.dataCount)),
                    closed: entry.closes == Self.none ? nil : logged(entry.closes)))
            index &+= 1
        }
        return result
    }
}
