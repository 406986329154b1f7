import StorageProtocols

// Where the locks of exports are, and what is done when they are not where they should be.
extension NLMLocks {
    /// A server is down: it has no locks, as far as anybody knows.
    package func serverDown(_ server: String) {
        forgotten.insert(server)
        serverRestarted(server)
    }

    /// A server has restarted and lost its locks.
    package func serverRestarted(_ server: String) {
        for export in exports.values where export.server == server {
            unsettle(export)
            export.server = nil
        }
        tick()
    }

    /// Resources may have other servers now, or one is there again.
    package func serversChanged() {
        for export in exports.values {
            if let server = surroundings?.server(of: export.resource), server != export.server {
                unsettle(export)
            }
            export.retryAt = 0
            settle(export)
        }
        tick()
    }

    /// The configuration was read again.
    /// - Parameter resources: of exports, by their numbers. Locks of others are forgotten.
    package func update(_ resources: [UInt32: String]) {
        for export in exports.values where resources[export.index] != export.resource {
            unsettle(export)
            exports[export.index] = nil
            table.forget(export.index)
            pending.removeAll { $0.wait.operation.file.index == export.index }
            let operations = export.parked
            export.parked = []
            for operation in operations { finish(operation, .staleHandle) }
        }
    }

    private func unsettle(_ export: Export) {
        export.phase = .unsettled
        export.settling?.isOver = true
        export.settling = nil
    }

    /// A call to a server has no reply: it may have forgotten everything.
    func lost(_ export: Export, _ server: String, _ reason: String) {
        export.isMissing = reason.hasPrefix("not registered")
        if !export.isMissing, export.retryAt <= now { surroundings?.trouble(server, reason) }
        export.retryAt = now + Self.retryInterval
        if export.server == server {
            unsettle(export)
            export.server = nil
        }
        tick()
    }

    func park(_ operation: NLMOperation, _ export: Export) {
        export.parked.append(operation)
        settle(export)
        tick()
    }

    /// Sets the locks of an export up at its server, if they are not and it can be done now. What is parked goes on
    /// then.
    func settle(_ export: Export) {
        if export.phase == .settled, !export.parked.isEmpty,
            surroundings?.server(of: export.resource) != export.server
        {
            unsettle(export)
        }
        guard export.phase == .unsettled, export.flight == 0, export.retryAt <= now,
            !export.parked.isEmpty || table.uses(export.index),
            let server = surroundings?.server(of: export.resource)
        else { return }
        let former = export.server.flatMap { name in
            name != server && surroundings?.isServing(name) == true ? name : nil
        }
        export.phase = .settling
        export.server = server
        let settling = NLMSettling(export, at: server, former: former, locks: self)
        export.settling = settling
        settling.begin()
    }

    // A server that was down may have been cut off only: what was unlocked elsewhere meanwhile would be locked there
    // for ever.
    /// Takes everything from a server that may have locks of former times. It is asked once, whoever needs it.
    /// - Parameter done: false: it has not answered.
    func clean(_ server: String, done: @escaping (Bool) -> Void) {
        guard forgotten.contains(server), let surroundings else { return done(true) }
        guard cleaning[server] == nil else {
            cleaning[server]?.append(done)
            return
        }
        cleaning[server] = [done]
        let version: NLMVersion = versions.contains(.v3) ? .four : .three
        // Another state than that of our locks: all of them go.
        let message = RPCMessage.call(
            xid: 0, program: NLMProtocol.program, version: version.rawValue,
            procedure: NLMProcedure.freeAll.rawValue,
            credential: RPCSystemCredential(machineName: "dsr", uid: 0, gid: 0),
            arguments: NLMCall.freeAll(
                surroundings.name(towards: server), state: Self.state + 2))
        surroundings.call(server: server, version: version, message) { [weak self] outcome in
            guard let self else { return }
            var isDone = false
            if case .reply = outcome { isDone = true }
            if isDone { forgotten.remove(server) }
            for done in cleaning.removeValue(forKey: server) ?? [] { done(isDone) }
        }
    }

    func settled(_ export: Export) {
        export.phase = .settled
        export.settling = nil
        let operations = export.parked
        export.parked = []
        for operation in operations { run(operation) }
    }

    func setUpAgain() { counters.reclaimed += 1 }

    func lost(_ operation: NLMOperation, _ range: NLMRange?, at server: String, _ why: String) {
        counters.lost += 1
        if let range { table.unlock(operation, range) } else { table.unshare(operation) }
        let caller = operation.owner.identity.caller
        surroundings?.report(
            "a lock of \(caller.address) (\(String(decoding: caller.name, as: UTF8.self))) in "
                + "\(operation.resource) is lost: \(server) says \(why)")
    }

    // MARK: Time

    /// Looks again and again at what waits, as long as something does.
    private func tick() {
        guard !isTicking, let surroundings, exports.values.contains(where: isWaiting) else {
            return
        }
        isTicking = true
        surroundings.after(Self.retryInterval) { [weak self] in
            guard let self else { return }
            isTicking = false
            for export in exports.values {
                settle(export)
                expire(export)
            }
            tick()
        }
    }

    private func isWaiting(_ export: Export) -> Bool {
        !export.parked.isEmpty || (export.phase != .settled && table.uses(export.index))
    }

    private func expire(_ export: Export) {
        guard export.phase != .settled else { return }
        let time = now
        func isLate(_ operation: NLMOperation) -> Bool {
            let maximum = operation.origin == nil ? Self.ownParkMaximum : Self.parkMaximum
            return time > operation.startedAt + maximum
        }
        let late = export.parked.filter(isLate)
        guard !late.isEmpty else { return }
        export.parked.removeAll(where: isLate)
        for operation in late { giveUp(operation, export) }
    }

    /// Clients take LCK_DENIED_GRACE_PERIOD for a server that starts, and come again.
    private func giveUp(_ operation: NLMOperation, _ export: Export) {
        if let wait = table.wait(for: operation), !wait.isTold, operation.action == .lock {
            table.remove(wait)
        }
        if operation.origin == nil {
            // Nobody has it any more: it is not set up again.
            switch operation.action {
            case .unlock: table.unlock(operation, operation.range)
            case .unshare: table.unshare(operation)
            case .cancel: if let wait = table.wait(for: operation) { table.remove(wait) }
            case .test, .lock, .share: break
            }
        }
        finish(operation, export.isMissing ? .deniedNoLocks : .deniedGracePeriod)
    }
}
