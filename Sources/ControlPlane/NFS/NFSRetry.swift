import StorageProtocols

/// A call that may have been done by a server which died before it said so, sent again to another one, so that the
/// client hears what it would have heard. A state machine: calls go out, replies come in, one at a time.
///
/// What a server answers to a call that is done twice is an error, since there is nothing left to do. Whether that
/// error is the first server's success or was true before is told by what is known: of the name when the call was sent
/// first (`NFSFirstSend`), and of what is there now.
///
/// | Call | Before it is sent again | Answer that is judged | Is success when |
/// |---|---|---|---|
/// | CREATE GUARDED or EXCLUSIVE, of version 2 CREATE; MKDIR, SYMLINK, MKNOD | | EXIST | LOOKUP finds what the call makes |
/// | REMOVE, RMDIR | LOOKUP, when the name's handle was known: nothing, or another object: success | NOENT | always |
/// | RENAME | the same of the old name; then LOOKUP of the new one | NOENT | the new name is of the same object |
/// | LINK | | EXIST | the name is of the file (its handle, or GETATTR: fsid and fileid) |
/// | SETATTR with a guard | | NOT_SYNC | GETATTR says that all that the call sets is set |
/// | CREATE UNCHECKED, everything else | | none | the server makes it right by itself |
///
/// An error that must have been there at the first send already is passed on: EXIST of a name that was there then,
/// NOENT of one that was not.
///
/// *What the call makes*: an object of its type that has changed since the call was sent first (unless the name was
/// known to be free then: any time is right); a file of its size; a directory without others in it; a symbolic link with
/// its text; a device with its numbers. The time is the object's ctime against the server's clock, of which a lower
/// bound is known from what it has changed before (`NFSServerClock`), with a second and a half of doubt: file systems
/// count in seconds at worst, and often in ticks of 10 ms. When nothing is known of the clock, any time is right.
///
/// *The same object*: it has the handle that the old name had, or its file number. Without either: it was changed since
/// the call was sent first, as a file is whose name changes.
///
/// Two clients can have made the same call to the server that died. One of them gets the success, the other the error:
/// `Outcome.otherwise`, which `NFSRouter` chooses when somebody was told already that the same name was made or
/// removed.
///
/// Limits:
///
/// * Of a name that no reply has told of and that could not be looked up (`NFSRouter.resolveName`) nothing is known.
///   Then somebody else's object that was made in the second and a half before counts as the call's, and a REMOVE of
///   what never was there succeeds.
/// * What others have done to the name between the two sends is seen only where the object's handle was known. Where
///   not, REMOVE removes what was made anew in its place, and RENAME renames it.
/// * What was made, and taken away by others before the second send, is made again.
/// * A file that others have written to before it is looked at, or a directory that they have made directories in, is
///   not taken for the call's: the client hears EXIST.
package struct NFSRetry: Sendable {
    /// What the client is to be told, as a server would say it (the XID is 0).
    package struct Outcome: Equatable, Sendable {
        package let reply: [UInt8]
        /// The right answer when somebody else was told to have done the same; nil: `reply` is what the server said.
        package let otherwise: [UInt8]?

        package init(reply: [UInt8], otherwise: [UInt8]?) {
            self.reply = reply
            self.otherwise = otherwise
        }
    }

    package enum Step: Equatable, Sendable {
        /// Goes to the new server; its XID is the sender's to replace. The reply is for `take`.
        case call([UInt8])
        case end(Outcome)
    }

    private enum Stage {
        /// LOOKUP of the name that is to go, before the call.
        case before
        case sent
        /// LOOKUP of RENAME's new name.
        case target
        /// LOOKUP of the name that is there.
        case present
        /// GETATTR of what was found there, READLINK of it, GETATTR of the file that is to have the name.
        case attributes, text, source
        /// GETATTR after a guard that did not match.
        case guarded
    }

    /// ns by which a change may seem to be older than it is.
    private static let doubt: UInt64 = 1_500_000_000

    private let octets: [UInt8]
    private let first: NFSFirstSend
    /// Nil: whatever the answer is, it is right.
    private let request: NFSRetryRequest?
    private var stage = Stage.sent
    /// What the new server has said to the call.
    private var answer: [UInt8]?
    private var hasLookedAtTarget = false
    private var object: NFSRetryRequest.Object?

    package init(_ forward: NFSForward) {
        octets = forward.call
        first = forward.context.first
        if case .nfs(let procedure) = forward.context.kind {
            request = NFSRetryRequest(forward.call, procedure)
        } else {
            request = nil
        }
    }

    package mutating func begin() -> Step {
        guard let request, request.kind == .remove || request.kind == .rename,
            known?.isThere == true, known?.identity != nil
        else { return send() }
        stage = .before
        return .call(request.lookUp(0))
    }

    /// - Parameter reply: to the last call.
    package mutating func take(_ reply: [UInt8]) -> Step {
        guard let request else { return end(reply) }
        switch stage {
        case .before: return takeBefore(request, reply)
        case .sent: return takeAnswer(request, reply)
        case .target: return takeTarget(request, reply)
        case .present: return takePresent(request, reply)
        case .attributes:
            object?.attributes = request.attributes(reply)
            return judge(request)
        case .text:
            guard let text = request.text(reply), text == request.made?.text else {
                return endAsAnswered(request)
            }
            return grant(request.success(object), request)
        case .source:
            guard let file = request.attributes(reply), let found = object?.attributes,
                file.fileSystem == found.fileSystem, file.fileNumber == found.fileNumber
            else { return endAsAnswered(request) }
            return grant(request.success(attributes: file), request)
        case .guarded:
            guard let now = request.attributes(reply), request.isSet(now) else {
                return endAsAnswered(request)
            }
            return grant(request.success(attributes: now), request)
        }
    }

    /// Of the first name when the call was sent first.
    private var known: NFSNameMemory.Knowledge? { first.names.first ?? nil }

    // MARK: Steps

    private mutating func send() -> Step {
        stage = .sent
        return .call(octets)
    }

    private func end(_ reply: [UInt8]) -> Step { .end(Outcome(reply: reply, otherwise: nil)) }

    /// What the server has said, or would say.
    private func endAsAnswered(_ request: NFSRetryRequest) -> Step {
        end(answer ?? request.missing)
    }

    private func grant(_ reply: [UInt8], _ request: NFSRetryRequest) -> Step {
        .end(Outcome(reply: reply, otherwise: answer ?? request.missing))
    }

    private mutating func takeBefore(_ request: NFSRetryRequest, _ reply: [UInt8]) -> Step {
        switch request.found(reply) {
        case .unclear: return send()
        case .object(let object) where object.handle == known?.identity?.handle: return send()
        case .object, .nothing:
            if request.kind == .remove { return grant(request.success(), request) }
            return lookAtTarget(request)
        }
    }

    private mutating func lookAtTarget(_ request: NFSRetryRequest) -> Step {
        stage = .target
        hasLookedAtTarget = true
        return .call(request.lookUp(1))
    }

    private mutating func takeTarget(_ request: NFSRetryRequest, _ reply: [UInt8]) -> Step {
        if case .object(let object) = request.found(reply), isRenamed(object) {
            return grant(request.success(), request)
        }
        return answer == nil ? send() : endAsAnswered(request)
    }

    private mutating func takeAnswer(_ request: NFSRetryRequest, _ reply: [UInt8]) -> Step {
        answer = reply
        let status = request.status(reply).flatMap { NFSv3Status(rawValue: $0) }
        switch (request.kind, status) {
        case (.create, .exists), (.link, .exists):
            if known?.isThere == true { return end(reply) }
            stage = .present
            return .call(request.lookUp(0))
        case (.remove, .noEntry):
            return known?.isThere == false ? end(reply) : grant(request.success(), request)
        case (.rename, .noEntry):
            if known?.isThere == false || hasLookedAtTarget { return end(reply) }
            return lookAtTarget(request)
        case (.setAttributes, .notSynchronized):
            stage = .guarded
            return .call(request.attributes(of: request.file))
        default: return end(reply)
        }
    }

    private mutating func takePresent(_ request: NFSRetryRequest, _ reply: [UInt8]) -> Step {
        guard case .object(let found) = request.found(reply) else {
            return endAsAnswered(request)
        }
        object = found
        if request.kind == .link {
            if found.handle == request.file {
                return grant(request.success(attributes: found.attributes), request)
            }
            stage = .source
            return .call(request.attributes(of: request.file))
        }
        if found.attributes == nil {
            stage = .attributes
            return .call(request.attributes(of: found.handle))
        }
        return judge(request)
    }

    /// Whether what has the name is what the call makes.
    private mutating func judge(_ request: NFSRetryRequest) -> Step {
        guard let object, let attributes = object.attributes, let made = request.made,
            isMade(attributes, made)
        else { return endAsAnswered(request) }
        if request.isSymbolicLink {
            stage = .text
            return .call(request.text(of: object.handle))
        }
        return grant(request.success(object), request)
    }

    // MARK: Judging

    private func isMade(_ attributes: NFSFileAttributes, _ made: NFSRetryRequest.Made) -> Bool {
        guard attributes.type == made.type, made.size == nil || attributes.size == made.size else {
            return false
        }
        if made.type == .directory, attributes.linkCount > 2 { return false }
        if let device = made.device, case .v3(let node) = attributes,
            device != [node.deviceMajor, node.deviceMinor]
        {
            return false
        }
        return known?.isThere == false || isFresh(attributes)
    }

    private func isRenamed(_ object: NFSRetryRequest.Object) -> Bool {
        guard let identity = known?.identity else {
            return object.attributes.map(isFresh) ?? false
        }
        if object.handle == identity.handle { return true }
        guard let number = identity.fileNumber else { return false }
        return object.attributes?.fileNumber == number
    }

    /// It has changed since the call was sent first, as far as anybody can tell.
    private func isFresh(_ attributes: NFSFileAttributes) -> Bool {
        guard let time = first.serverTime else { return true }
        return attributes.changedAt >= time - min(time, Self.doubt)
    }
}
