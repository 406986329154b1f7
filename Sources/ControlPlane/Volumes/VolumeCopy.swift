import StorageProtocols

/// Gives a mirror's member what it has missed: region after region is read from one that has everything and
/// written, with nobody else at those blocks meanwhile.
final class VolumeCopy {
    struct Failure {
        var reason: String
    }

    let place: Int
    private let blocks: [Range<UInt64>]
    private let blockLength: Int
    private let source: VolumeMember
    private let target: VolumeMember
    private let locks: RangeLocks
    /// Regions that are done.
    private var done = 0
    private var next: UInt64 = 0
    private var ticket: RangeLocks.Ticket?
    private var attempts = 0
    private var isCancelled = false
    var onProgress: (Int) -> Void = { _ in }
    var onEnd: (Failure?) -> Void = { _ in }

    /// Octets that are copied at a time: clients that want them wait for so much.
    private static let stepMaximum = 256 << 10
    /// Conditions and full queues that are met before it fails.
    private static let attemptMaximum = 10

    init(
        place: Int, blocks: [Range<UInt64>], blockLength: Int, from source: VolumeMember,
        to target: VolumeMember, locks: RangeLocks
    ) {
        self.place = place
        self.blocks = blocks
        self.blockLength = blockLength
        self.source = source
        self.target = target
        self.locks = locks
        next = blocks.first?.lowerBound ?? 0
    }

    func start() { step() }

    func cancel() {
        isCancelled = true
        release()
    }

    private func release() {
        if let ticket { locks.release(ticket) }
        ticket = nil
    }

    private func end(_ failure: Failure?) {
        release()
        guard !isCancelled else { return }
        isCancelled = true
        onEnd(failure)
    }

    private func step() {
        while done < blocks.count, next >= blocks[done].upperBound {
            done += 1
            if done < blocks.count { next = blocks[done].lowerBound }
            onProgress(done)
        }
        guard !isCancelled else { return }
        guard done < blocks.count else {
            Volume.synchronize(target) { [weak self] trouble in
                self?.end(trouble.map(Failure.init(reason:)))
            }
            return target.flush()
        }
        let count = min(
            UInt64(max(1, Self.stepMaximum / blockLength)), blocks[done].upperBound - next)
        let range = next..<next + count
        ticket = locks.acquire(range, for: .atomic) { [weak self] in self?.read(range) }
    }

    private func read(_ range: Range<UInt64>) {
        guard !isCancelled else { return }
        let length = range.count * blockLength
        var data = [UInt8](repeating: 0, count: length)
        var received = 0
        source.send(
            MemberRequest(
                SCSICommand.readBlocks(start: range.lowerBound, count: UInt32(range.count)),
                inputLength: length,
                onData: { offset, bytes in
                    guard offset + bytes.count <= length else { return }
                    data.withUnsafeMutableBytes {
                        UnsafeMutableRawBufferPointer(rebasing: $0[offset...]).copyMemory(
                            from: bytes)
                    }
                    received += bytes.count
                }, onAgain: { received = 0 },
                onEnd: { [weak self] outcome in
                    guard let self, !isCancelled else { return }
                    let isWhole = received == length
                    guard self.isGood(outcome, isWhole, at: self.source, { self.read(range) })
                    else { return }
                    write(range, data)
                }))
        source.flush()
    }

    private func write(_ range: Range<UInt64>, _ data: [UInt8]) {
        target.send(
            MemberRequest(
                SCSICommand.writeBlocks(
                    start: range.lowerBound, count: UInt32(range.count), forcesUnitAccess: false),
                payload: MemberRequest.Payload(data),
                onEnd: { [weak self] outcome in
                    guard let self, !isCancelled else { return }
                    guard
                        isGood(outcome, true, at: target, { self.write(range, data) })
                    else { return }
                    next = range.upperBound
                    release()
                    step()
                }))
        target.flush()
    }

    /// False: it was tried again, or has failed.
    private func isGood(
        _ outcome: MemberRequest.Outcome, _ isWhole: Bool, at member: VolumeMember,
        _ again: () -> Void
    ) -> Bool {
        let name = member.resource.name
        switch outcome {
        case .answered(status: 0, _) where isWhole:
            attempts = 0
            return true
        case .answered(status: 0, _):
            end(Failure(reason: "\(name) has sent less than was asked for"))
        case .answered(let status, let sense):
            let known = SCSISense(sense)
            // A unit attention is met once; BUSY and TASK SET FULL pass (SAM-5 section 5.3).
            if known?.key == 6 || status == 0x08 || status == 0x28,
                attempts < Self.attemptMaximum
            {
                attempts += 1
                again()
                return false
            }
            let text = known.map { ", sense \($0.key)/\($0.code)/\($0.qualifier)" } ?? ""
            end(Failure(reason: "\(name): status \(status)\(text)"))
        case .lost(let reason): end(Failure(reason: "\(name): \(reason)"))
        }
        return false
    }
}
