import ControlPlane
import TestSupport

// What happens in the simulated world.

extension Simulator {
    func happen(_ event: Event) {
        note("world: \(event)")
        switch event {
        case .routineProbe(let server):
            guard world[server] != nil else { return }
            probe(server, 2 * Self.second)
            schedule(after: (isQuiet ? 10 : 5) * Self.second, .routineProbe(server))
        case .probeAnswer(let server, let started, let timeout):
            answerProbe(server, started, timeout)
        case .confirmAnswer(let id, let resource, let server, let isLucky):
            answerConfirmation(id, resource, server, isLucky)
        case .sessionsDone(let id, let resource, let from, let to, let mode):
            finishSessions(id, resource, from, to, mode)
        case .fenceAnswer(let id, let server, let isLucky):
            if isLucky {
                crash(server, for: milliseconds(5000...20_000))
                invariants.fenced.insert(server)
            }
            input(.fenced(id, server: server, isGood: isLucky))
        case .fault(let fault): happen(fault)
        case .restart(let server, let incarnation):
            guard let state = world[server], state.incarnation == incarnation else { return }
            world[server]?.process = .running
        case .thaw(let server):
            if world[server]?.process == .frozen { world[server]?.process = .running }
        case .linkUp(let server):
            world[server]?.isLinkUp = true
            input(.evidence(.linkUp, server: server))
        case .repaired(let server): world[server]?.isBroken = false
        case .undrain(let server): perform(.undrain(server: server))
        case .evidence(let evidence, let server): input(.evidence(evidence, server: server))
        case .announce(let server, let announcement): announce(server, announcement)
        }
    }

    private func answerProbe(_ server: String, _ started: UInt64, _ timeout: UInt64) {
        guard let state = world[server] else { return }
        let result: ProbeResult
        if !state.isLinkUp || state.process == .frozen {
            if now < started + timeout {
                // Nothing comes back now; it may still do so until the time-out.
                let rest = started + timeout - now
                return schedule(
                    after: min(rest, 500_000_000),
                    .probeAnswer(server, started: started, timeout: timeout))
            }
            result = .timedOut
        } else if state.process == .crashed {
            result = .refused
        } else {
            result = state.isBroken ? .bad : .good
        }
        input(.evidence(.probe(result), server: server))
    }

    private func answerConfirmation(
        _ id: ChangeID, _ resource: String, _ server: String, _ isLucky: Bool
    ) {
        guard let state = world[server] else { return }
        // Nothing comes back from it.
        if state.process == .frozen || !state.isLinkUp { return }
        let isGood = isLucky && isServing(server, resource)
        if isGood { invariants.confirm(id, resource, server) }
        input(.confirmed(id, resource: resource, server: server, isGood: isGood))
    }

    private func finishSessions(
        _ id: ChangeID, _ resource: String, _ from: String, _ to: String, _ mode: SessionMoveMode
    ) {
        // Outstanding requests of a server that does not answer are not finished.
        if mode == .orderly, world[from].map({ !$0.canServe }) ?? true { return }
        // It was told that the move has ended.
        if invariants.isAbandoned(id, resource) { return }
        // A later change has taken over.
        guard manager.table.assignedServer(of: resource) == to else { return }
        let isGood = isServing(to, resource)
        if legs[resource]?.removeValue(forKey: from) != nil, isGood {
            legs[resource]?[to] = world[to]?.incarnation
        }
        if !isQuiet, chance(2) { return }
        input(
            .sessionsMoved(
                id, resource: resource, from: from, moved: isGood ? 1 : 0, failed: isGood ? 0 : 1))
    }

    private func announce(_ server: String, _ announcement: ResourceAnnouncement) {
        guard world[server] != nil else { return }
        for resource in announcement.appeared { gone[resource]?.remove(server) }
        for resource in announcement.gone { gone[resource, default: []].insert(server) }
        input(.announced(server: server, announcement))
    }

    func randomLoads() -> [String: Double] {
        var loads: [String: Double] = [:]
        for resource in manager.table.all { loads[resource.name] = Double(random.below(500)) }
        return loads
    }

    private func crash(_ server: String, for time: UInt64) {
        guard var state = world[server] else { return }
        state.process = .crashed
        state.incarnation += 1
        world[server] = state
        schedule(after: time, .restart(server, incarnation: state.incarnation))
        if chance(70) {
            schedule(after: milliseconds(1...500), .evidence(.soft(.sessionReset), server))
        }
    }

    private func happen(_ fault: Fault) {
        let names = world.keys.sorted()
        guard let server = names.randomElement(using: &random),
            let resource = manager.table.all.randomElement(using: &random)
        else { return }
        switch fault {
        case .crash: crash(server, for: milliseconds(1000...60_000))
        case .freeze:
            guard world[server]?.process == .running else { return }
            world[server]?.process = .frozen
            schedule(after: milliseconds(200...60_000), .thaw(server))
            if chance(80) {
                schedule(after: milliseconds(500...2000), .evidence(.soft(.lateRequest), server))
            }
        case .linkDown:
            world[server]?.isLinkUp = false
            schedule(after: milliseconds(500...40_000), .linkUp(server))
            input(.evidence(chance(80) ? .linkDown : .portRemoved, server: server))
        case .broken:
            world[server]?.isBroken = true
            schedule(after: milliseconds(1000...30_000), .repaired(server))
        case .flapping:
            for round in 0..<5 where round == 0 { crash(server, for: milliseconds(500...1500)) }
            for _ in 0..<4 { schedule(after: milliseconds(5000...40_000), .fault(.crash)) }
        case .outage: for name in names { crash(name, for: milliseconds(5000...30_000)) }
        case .announcement: leave(resource)
        case .agent:
            input(.evidence(.soft(.agentSilent), server: server))
            schedule(after: milliseconds(100...20_000), .evidence(.agentHeard, server))
        case .falseAlarm:
            for _ in 0..<10 {
                schedule(after: milliseconds(0...300), .evidence(.soft(.unexpectedEnd), server))
            }
        case .drain, .move, .add, .remove, .loads, .balancing: operate(fault, server, resource)
        }
    }

    /// A resource goes from one server to another one, as their agents tell it.
    private func leave(_ resource: Resource) {
        let from = resource.assigned
        let to = resource.servers.filter { $0 != from && isServing($0, resource.name) }
            .randomElement(using: &random)
        let name = resource.name
        if chance(30) {
            announce(from, ResourceAnnouncement(leaving: [name]))
        } else {
            announce(from, ResourceAnnouncement(gone: [name]))
        }
        if let to, chance(80) {
            schedule(
                after: milliseconds(1...3000), .announce(to, ResourceAnnouncement(appeared: [name]))
            )
        }
        schedule(
            after: milliseconds(5000...40_000),
            .announce(from, ResourceAnnouncement(appeared: [name])))
    }

    private func operate(_ fault: Fault, _ server: String, _ resource: Resource) {
        switch fault {
        case .drain:
            guard perform(.drain(server: server)) else { return }
            schedule(after: milliseconds(5000...60_000), .undrain(server))
        case .move:
            guard let to = resource.servers.randomElement(using: &random) else { return }
            perform(.move(resource: resource.name, to: to))
        case .add:
            guard addedServers < 3 else { return }
            addedServers += 1
            let new = ManagedServer(name: "added\(addedServers)", canBeFenced: chance(50))
            world[new.name] = WorldServer(canBeFenced: new.canBeFenced, goodSince: now)
            let held = manager.table.all.map(\.name).filter { _ in chance(70) }
            perform(.addServer(new, resources: held))
            schedule(after: milliseconds(0...5000), .routineProbe(new.name))
        case .remove: perform(.removeServer(server, force: chance(50)))
        case .loads: input(.loads(randomLoads(), own: [server: Double(random.below(200))]))
        case .balancing: perform(.setAutomaticBalance(!manager.isBalancingAutomatically))
        default: break
        }
    }
}
