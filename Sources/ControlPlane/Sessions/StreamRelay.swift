import DataPlane
import StorageProtocols

/// Where a relay puts octets: one buffer for each leg.
package struct RelayOutput {
    package var toClient = OutboundBuffer()
    package var toServer = OutboundBuffer()
    /// For a server that was left and finishes what is open there.
    package var toFormer = OutboundBuffer()
    package init() {}

    subscript(_ side: SpliceSide) -> OutboundBuffer {
        get { side == .client ? toClient : toServer }
        _modify { if side == .client { yield &toClient } else { yield &toServer } }
    }
}

extension [UInt8] {
    /// As `withUnsafeBytes`, with the error's type kept.
    func withBytes<Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Void
    ) throws(Failure) {
        var failure: Failure?
        withUnsafeBytes { bytes in
            do throws(Failure) { try body(bytes) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}

/// Why a relay cannot go on with a stream.
package struct RelayError: Error {
    package var message: String
}

/// What passes between the two legs of a session while both are kernel sockets: looks at the octets from one
/// side and says what goes to the other. One for each session; lives on the session thread.
protocol StreamRelay: AnyObject {
    /// Takes octets that arrived from `side`.
    func receive(
        _ bytes: UnsafeRawBufferPointer, from side: SpliceSide, output: inout RelayOutput
    ) throws(RelayError)

    /// The server leg is up: what the relay has to send first.
    func begin(output: inout RelayOutput)

    /// So many octets that come next from the server go to the client as they are: they may be received behind
    /// `output.toClient` at once, and are told of then. 0: all is to be looked at.
    var plainServerOctets: Int { get }
    /// That many of them are there.
    func passedPlain(_ count: Int)

    /// False while octets of the client had better wait in its socket.
    var wantsClientInput: Bool { get }

    /// False while only the relay can carry the session, however little waits in it: a server change is not
    /// over, an answer of its own is owed. It becomes true with octets from an end, not by itself.
    var isSettled: Bool { get }

    /// True when nothing is kept back in the relay: no part of a message waits for its rest, no answer of
    /// its own is owed. Only then can positions change hands.
    var isAtRest: Bool { get }

    /// How the dataplane follows messages while spliced; distances count from the current positions.
    var messages: SpliceMessages? { get }

    /// What is open; goes to the dataplane with a splice.
    var log: SessionLog? { get }

    /// True when the session can go on with another server.
    var survivesServer: Bool { get }

    /// True when new requests can wait here, while those that are open end: the session can leave its server in
    /// good order.
    var canHold: Bool { get }

    /// New requests wait.
    var isHolding: Bool { get }

    /// Held, and nothing is open at the server or half said by it.
    var isQuiet: Bool { get }

    /// Called when that has become so; once, until asked again.
    var onQuiet: () -> Void { get set }

    /// The client has sent something that is for another server.
    var isForeign: Bool { get }

    /// New requests wait from now on; `onQuiet` tells when those that are open have ended.
    func hold()

    /// Asks for `onQuiet`, once more.
    func tellWhenQuiet()

    /// From the next moment on when it can be the server goes on by itself with what is open; `onQuiet` tells.
    func splitWhenPossible()
    /// It does: its octets are kept.
    var isSplit: Bool { get }
    /// The server goes on as before.
    func undoSplit(output: inout RelayOutput) throws(RelayError)
    /// Held, and either nothing is open or the server is split.
    var isReadyToChange: Bool { get }
    /// Whether a server with this login can take the present one's place as things are.
    func canTakeOver(_ session: ISCSIInitiatorResult) -> Bool
    /// Octets of a server that was split and left.
    func receiveFromFormer(
        _ bytes: UnsafeRawBufferPointer, output: inout RelayOutput
    ) throws(RelayError)
    /// Says what waited of it.
    func flushFormer(output: inout RelayOutput) throws(RelayError)
    /// It has finished; `formerEnded` forgets it.
    var isFormerDone: Bool { get }
    func formerEnded(output: inout RelayOutput) throws(RelayError)

    /// The change is given up: what waited goes on.
    func release(output: inout RelayOutput) throws(RelayError)

    /// The session is spliced; the stream to the client is at this position, in the server's space.
    func spliced(at serverPosition: SequenceNumber)

    /// The legs are kernel sockets again: where the stream to the client is, in the server's space, and
    /// distances to the next message header from the legs' positions.
    func resume(
        position: SequenceNumber, clientHeaderDistance: UInt32, serverHeaderDistance: UInt32)

    /// The server leg is gone while the legs were kernel sockets.
    func detach()

    /// The server leg is gone and the client's is a kernel socket again: up to where the client has its
    /// stream, and octets of its present message that are still to come.
    func detachSpliced(position: SequenceNumber, clientRemaining: UInt32)
}

extension StreamRelay {
    var plainServerOctets: Int { 0 }
    func passedPlain(_ count: Int) {}
    func splitWhenPossible() {}
    var isSplit: Bool { false }
    func undoSplit(output: inout RelayOutput) throws(RelayError) {}
    var isReadyToChange: Bool { isQuiet }
    func canTakeOver(_ session: ISCSIInitiatorResult) -> Bool { false }
    func receiveFromFormer(
        _ bytes: UnsafeRawBufferPointer, output: inout RelayOutput
    ) throws(RelayError) {}
    func flushFormer(output: inout RelayOutput) throws(RelayError) {}
    var isFormerDone: Bool { true }
    func formerEnded(output: inout RelayOutput) throws(RelayError) {}
}

/// A relay that passes every octet: plain TCP.
final class TransparentRelay: StreamRelay {
    var isSettled: Bool { true }
    var isAtRest: Bool { true }
    var wantsClientInput: Bool { true }
    var messages: SpliceMessages? { nil }
    func begin(output: inout RelayOutput) {}
    var log: SessionLog? { nil }
    var survivesServer: Bool { false }
    let canHold = false
    let isHolding = false
    let isQuiet = false
    let isForeign = false
    var onQuiet: () -> Void = {}
    func hold() {}
    func tellWhenQuiet() {}
    func release(output: inout RelayOutput) {}
    func spliced(at serverPosition: SequenceNumber) {}
    func resume(
        position: SequenceNumber, clientHeaderDistance: UInt32, serverHeaderDistance: UInt32
    ) {}
    func detach() {}
    func detachSpliced(position: SequenceNumber, clientRemaining: UInt32) {}
    func receive(
        _ bytes: UnsafeRawBufferPointer, from side: SpliceSide, output: inout RelayOutput
    ) throws(RelayError) {
        output[side.other].append(bytes)
    }
}
