import DataPlane
import Logging

/// Where a message of the client goes.
enum MessageRoute: Equatable {
    /// As it comes, with the header that `route` has left.
    case destination(Int)
    /// To the router, when all of it is here.
    case router
    /// Nowhere.
    case nobody
}

/// What a protocol knows of its messages: the part of a relay at the message grain that differs between iSCSI, NFS
/// and SMB. Octets and decisions; sockets, buffers and turns are the relay's.
protocol MessageRouter: AnyObject {
    /// Where in a header the message's length is.
    var format: MessageFormat { get }
    /// Longest message that is taken as a whole (`MessageRoute.router`).
    var wholeMaximum: Int { get }
    /// A message of the client begins. The header may be changed; its length may not.
    func route(_ header: inout [UInt8]) throws(RelayError) -> MessageRoute
    /// All of a message that `route` wanted for the router.
    func take(_ message: [UInt8]) throws(RelayError)
    /// The end of a message that goes nowhere. What there is to answer is to be answered now: an initiator that has its
    /// answer while it still sends the data may leave the rest out.
    func passedOver()
    /// A whole message from a destination, in the order in which the client gets it; may be changed in place.
    /// False: it is not for the client.
    func reply(_ message: UnsafeMutableRawBufferPointer, from place: Int) -> Bool
    /// The client's connection is over.
    func clientEnded(_ reason: String, reset: Bool)
}

/// One of the streams that a client's messages are spread over: a server's, or a volume's that several serve.
protocol MessageDestination: AnyObject {
    /// Octets of the client. Not to be acted upon before `flush`.
    func feed(_ bytes: UnsafeRawBufferPointer)
    /// What was fed may go.
    func flush()
    /// Octets for the client. `reply` is called while they are looked at: it must not touch them.
    var output: OutboundBuffer { get set }
    /// The client has taken some.
    func outputTaken()
    /// A message of this many octets is on its way: `output` must have room for it.
    func makeRoom(_ count: Int)
}

/// Carries one client's stream of messages to several destinations and merges what they answer: only whole messages
/// go out, so that a destination which stops in the middle of one holds nobody up.
///
/// Octets for the client are sent from the destination's own buffer. The relay keeps at most one message of the
/// client, and answers of the router's own; the bounds on what destinations keep are the router's and theirs.
/// Lives on the session thread.
final class MessageRelay {
    private let engine: SessionEngine
    /// -1: somebody else has the client's socket.
    private(set) var descriptor: Int32 = -1
    private weak var router: (any MessageRouter)?
    private var destinations: [Int: any MessageDestination] = [:]
    private var order: [Int] = []

    // From the client.
    private var header: [UInt8] = []
    private var remaining = 0
    private var route = MessageRoute.nobody
    private var gathered: [UInt8] = []
    private var isFed: Set<Int> = []
    private let headerLength: Int
    private let format: MessageFormat

    // To the client.
    private var own = OutboundBuffer()
    /// Where the next turn begins in `order`.
    private var turn = 0
    /// Octets of whole messages at the begin of a destination's buffer that are on their way.
    private var run: (place: Int, count: Int)?
    /// The same of the router's own answers.
    private var ownRun = 0
    /// What was on its way from a destination that has gone.
    private var orphaned = OutboundBuffer()
    private var isSending = false
    private var isBlocked = false

    /// Octets that one destination may send before it is another's turn.
    private static let runMaximum = 256 << 10

    init(engine: SessionEngine, router: any MessageRouter) {
        self.engine = engine
        self.router = router
        format = router.format
        headerLength = Int(router.format.headerLength)
    }

    // MARK: Client's connection

    /// Takes the client's socket. `waiting`: what was read from it and not looked at.
    /// - Parameter cut: the message of the client that has come in part, and how much of it is missing.
    /// - Parameter unfinished: octets of a destination's that the client must get before anything else; they are not
    ///   looked at.
    func attach(
        _ descriptor: Int32, waiting: [UInt8], cut: (place: Int, remaining: Int)? = nil,
        unfinished: (place: Int, count: Int)? = nil
    ) {
        self.descriptor = descriptor
        if let cut, cut.remaining > 0 {
            route = .destination(cut.place)
            remaining = cut.remaining
        }
        if let unfinished, unfinished.count > 0 { run = unfinished }
        isBlocked = false
        engine.loop.register(descriptor, events: [.read, .write, .edgeTriggered]) { [weak self] _ in
            self?.clientReady()
        }
        waiting.withUnsafeBytes { receive($0) }
        clientReady()
    }

    /// Gives the socket to somebody else; only when `isAtRest`.
    func detach() -> Int32 {
        engine.loop.unregister(descriptor)
        defer { descriptor = -1 }
        return descriptor
    }

    /// No message is on its way in either direction.
    var isAtRest: Bool {
        header.isEmpty && remaining == 0 && own.isEmpty && orphaned.isEmpty && run == nil
            && destinations.values.allSatisfy(\.output.isEmpty)
    }

    private func clientReady() {
        isBlocked = false
        send()
        read()
    }

    private func end(_ reason: String, reset: Bool) {
        guard descriptor >= 0 else { return }
        router?.clientEnded(reason, reset: reset)
    }

    /// Closes the client's connection; nobody is told.
    func close(reset: Bool) {
        guard descriptor >= 0 else { return }
        engine.loop.unregister(descriptor)
        if reset { Socket.setReset(descriptor) }
        Socket.close(descriptor)
        descriptor = -1
    }

    /// What was said goes out; then the client's connection ends. It is not read any more.
    func closeWhenSent(_ reason: String) { closing = reason }
    private var closing: String?

    // MARK: From the client

    /// Octets of our own answers beyond which a client that does not take them is not read.
    private static let ownMaximum = 256 << 10

    private func read() {
        for _ in 0..<16 {
            guard readSome() else { return }
        }
        engine.loop.postLocal { [weak self] in self?.read() }
    }

    /// Octets of the client that are handed out before destinations are told: each time that one is told costs its
    /// server a wake-up.
    private static let batchMaximum = 256 << 10

    /// False: nothing is left to read, or nobody may.
    private func readSome() -> Bool {
        var octets = 0
        var isMore = true
        while isMore, octets < Self.batchMaximum {
            guard descriptor >= 0, closing == nil, own.count < Self.ownMaximum else {
                flush()
                return false
            }
            do throws(SystemCallError) {
                switch try Socket.receive(descriptor, into: engine.relayScratch) {
                case .wouldBlock: isMore = false
                case .end:
                    flush()
                    end("closed by the client", reset: false)
                    return false
                case .bytes(let count):
                    octets += count
                    guard take(UnsafeRawBufferPointer(rebasing: engine.scratch[..<count])) else {
                        return false
                    }
                }
            } catch {
                end("\(error)", reset: true)
                return false
            }
        }
        flush()
        return isMore
    }

    private func receive(_ bytes: UnsafeRawBufferPointer) {
        if take(bytes) { flush() }
    }

    private func take(_ bytes: UnsafeRawBufferPointer) -> Bool {
        isCutting = true
        do throws(RelayError) {
            defer { isCutting = false }
            try cut(bytes)
            return true
        } catch {
            end(error.message, reset: true)
            return false
        }
    }

    /// Not within `take`: destinations read their servers into the same memory.
    private func flush() {
        let fed = isFed
        isFed.removeAll(keepingCapacity: true)
        for place in order where fed.contains(place) { destinations[place]?.flush() }
        send()
    }

    private func cut(_ bytes: UnsafeRawBufferPointer) throws(RelayError) {
        var offset = 0
        while offset < bytes.count, descriptor >= 0, closing == nil {
            if remaining > 0 {
                let count = min(remaining, bytes.count - offset)
                pass(UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count]))
                remaining -= count
                offset += count
            } else {
                let count = min(headerLength - header.count, bytes.count - offset)
                header += bytes[offset..<offset + count]
                offset += count
                guard header.count == headerLength else { return }
                try begin()
            }
            guard remaining == 0, header.isEmpty else { continue }
            switch route {
            case .router:
                let message = gathered
                gathered = []
                route = .nobody
                try router?.take(message)
            case .nobody: router?.passedOver()
            case .destination: break
            }
        }
    }

    private func begin() throws(RelayError) {
        let known = header.withUnsafeBytes { bytes in bytes.baseAddress.flatMap(format.length) }
        guard let length = known else {
            throw RelayError(message: "a message of more than \(format.maximumLength) octets")
        }
        remaining = length - headerLength
        var head = header
        header.removeAll(keepingCapacity: true)
        route = try router?.route(&head) ?? .nobody
        if case .router = route, length > router?.wholeMaximum ?? 0 {
            throw RelayError(message: "a message of \(length) octets that must be taken as a whole")
        }
        head.withUnsafeBytes { pass($0) }
    }

    private func pass(_ bytes: UnsafeRawBufferPointer) {
        switch route {
        case .destination(let place):
            guard let destination = destinations[place] else { return }
            destination.feed(bytes)
            isFed.insert(place)
        case .router: gathered += bytes
        case .nobody: break
        }
    }

    // MARK: Destinations

    func add(_ destination: any MessageDestination, at place: Int) {
        destinations[place] = destination
        order.append(place)
    }

    /// Its whole messages still go to the client; of one that is not whole nobody hears.
    func remove(_ place: Int) {
        guard let destination = destinations[place] else { return }
        if let run, run.place == place {
            guard run.count <= destination.output.count else {
                return end("a message that the client has in part cannot be completed", reset: true)
            }
            orphaned.append(destination.output.take(run.count))
            self.run = nil
        }
        while true {
            let count = prepareRun(destination, place)
            guard count > 0 else { break }
            own.append(destination.output.take(count))
        }
        destinations[place] = nil
        order.removeAll { $0 == place }
        if case .destination(place) = route { route = .nobody }
    }

    /// Octets of the router's own for a destination: whole messages. Not from within `reply`.
    func feed(_ octets: [UInt8], to place: Int) {
        guard let destination = destinations[place] else { return }
        octets.withUnsafeBytes { destination.feed($0) }
        // Within the client's octets they go with those.
        if isCutting { isFed.insert(place) } else { destination.flush() }
    }
    private var isCutting = false

    /// Octets of the router's own: whole messages.
    func say(_ octets: [UInt8]) { own.append(octets) }

    /// Octets from one of the destinations wait, or the router has said something.
    func send() {
        guard !isSending, !isBlocked, descriptor >= 0 else { return }
        isSending = true
        defer { isSending = false }
        do throws(SystemCallError) {
            while descriptor >= 0, try sendSome() {}
            if let closing, own.isEmpty, orphaned.isEmpty, run == nil { end(closing, reset: false) }
        } catch {
            end("\(error)", reset: true)
        }
    }

    /// False: nothing is left, or the client takes no more.
    private func sendSome() throws(SystemCallError) -> Bool {
        if !orphaned.isEmpty {
            return try sendPart(of: &orphaned, orphaned.count)
        }
        if let run, let destination = destinations[run.place] {
            let before = destination.output.count
            // Of a message that the client has in part the rest may be still to come.
            let isWhole = try sendPart(of: &destination.output, min(run.count, before))
            let left = run.count - (before - destination.output.count)
            self.run = left > 0 ? (run.place, left) : nil
            if isWhole { destination.outputTaken() }
            return isWhole && left == 0
        }
        if ownRun > 0 || !own.isEmpty {
            if ownRun == 0 { ownRun = own.count }
            let before = own.count
            let isWhole = try sendPart(of: &own, ownRun)
            ownRun -= before - own.count
            return isWhole
        }
        for step in 0..<order.count {
            let place = order[(turn + step) % order.count]
            guard let destination = destinations[place] else { continue }
            let count = prepareRun(destination, place)
            guard count > 0 else { continue }
            turn = (turn + step + 1) % order.count
            run = (place, count)
            return true
        }
        return false
    }

    /// True: the first `count` octets have gone.
    private func sendPart(of buffer: inout OutboundBuffer, _ count: Int) throws(SystemCallError)
        -> Bool
    {
        var left = count
        while left > 0 {
            var taken = 0
            try buffer.drain { bytes throws(SystemCallError) in
                taken = try Socket.send(
                    descriptor, UnsafeRawBufferPointer(rebasing: bytes[..<left]))
                return taken
            }
            left -= taken
            guard taken > 0 else {
                isBlocked = true
                return false
            }
        }
        return true
    }

    /// Whole messages at the begin of a destination's buffer, as the client is to have them; those that it is not to
    /// have are taken out. 0: there is none.
    private func prepareRun(_ destination: any MessageDestination, _ place: Int) -> Int {
        var count = 0
        while true {
            let look = look(at: &destination.output, from: &count, place)
            switch look {
            case .end: return count
            case .unwanted(let length): destination.output.remove(length, at: count)
            case .incomplete(let length):
                if count == 0 { destination.makeRoom(length) }
                return count
            }
        }
    }

    private enum Look {
        case end
        case unwanted(Int)
        case incomplete(Int)
    }

    /// Goes on behind the first `count` octets, as far as messages are whole and wanted.
    private func look(
        at buffer: inout OutboundBuffer, from count: inout Int, _ place: Int
    ) -> Look {
        var result = Look.end
        var position = count
        buffer.withMutableBytes { bytes in
            while position < Self.runMaximum, bytes.count - position >= headerLength,
                let base = bytes.baseAddress
            {
                // What a server's stream may have in it was looked at when it came.
                let length = format.length(of: base + position) ?? .max
                guard bytes.count - position >= length else {
                    result = .incomplete(length)
                    return
                }
                let message = UnsafeMutableRawBufferPointer(start: base + position, count: length)
                guard router?.reply(message, from: place) == true else {
                    result = .unwanted(length)
                    return
                }
                position += length
            }
        }
        count = position
        return result
    }
}
