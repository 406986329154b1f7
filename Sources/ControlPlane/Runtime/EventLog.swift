import DataPlane
import Foundation
import Synchronization

/// The newest events.
package final class EventLog: Sendable {
    private struct State {
        /// A ring once it is full: event n lies at (n - 1) modulo the capacity.
        var ring: [EventModel] = []
        var next: UInt64 = 1
    }
    private let capacity: Int
    private let state = Mutex(State())

    package init(capacity: Int) { self.capacity = capacity }

    package func add(_ model: EventModel) {
        state.withLock { state in
            var model = model
            model.sequence = state.next
            model.timeS = Date().timeIntervalSince1970
            state.next += 1
            if state.ring.count < capacity {
                state.ring.append(model)
            } else if capacity > 0 {
                state.ring[Int((model.sequence - 1) % UInt64(capacity))] = model
            }
        }
    }

    /// What is kept and newer than `after`, oldest first.
    private func kept(_ state: State, after: UInt64) -> [EventModel] {
        let oldest = state.next - UInt64(state.ring.count)
        guard after < state.next else { return [] }
        return (max(oldest, after + 1)..<state.next).map { sequence in
            state.ring[Int((sequence - 1) % UInt64(capacity))]
        }
    }

    /// Sequence number of the newest event; 0: there was none.
    package var last: UInt64 { state.withLock { $0.next - 1 } }

    package func events(after: UInt64?) -> [EventModel] {
        state.withLock { state in kept(state, after: after ?? 0) }
    }

    func add(_ event: SessionEvent, ports: PortNames, isRejoined: Bool = false) {
        var model = EventModel()
        switch event {
        case .opened(let session):
            model.kind = "session_opened"
            model.session = UInt64(session.id)
            model.message = "session \(session.id) from \(session.client)"
        case .changed(let session):
            model.kind = session.state == "spliced" ? "session_spliced" : "session_unspliced"
            model.session = UInt64(session.id)
            model.server = session.serverName
            model.resource = session.resource
            model.message = "session \(session.id) is \(session.state)"
            model.details["freeze_us"] = "\(session.statistics.lastFreeze / 1_000)"
        case .closed(let session, let reason):
            model.kind = "session_closed"
            model.session = UInt64(session.id)
            model.message = "session \(session.id): \(reason)"
        case .port(let number, let isUp):
            let name = ports.name(number) ?? "\(number)"
            model.kind = isRejoined ? "port_rejoined" : isUp ? "port_up" : "port_down"
            model.port = name
            model.message =
                isRejoined
                ? "port \(name) has joined its device again and is \(isUp ? "up" : "down")"
                : "port \(name) is \(isUp ? "up" : "down")"
        case .ruleExpired(let id, let cookie, let isHard):
            model.kind = "rule_expired"
            model.message = "rule \(id) expired (\(isHard ? "hard" : "idle") time-out)"
            model.details["cookie"] = "0x" + String(cookie, radix: 16)
        case .server(let name, let isUp, let detail):
            model.kind = isUp ? "server_up" : "server_down"
            model.server = name
            model.message = "server \(name) is \(isUp ? "up" : "down"): \(detail)"
        case .serverLost(let session, let detail):
            model.kind = "session_server_lost"
            model.session = UInt64(session.id)
            model.server = session.serverName
            model.resource = session.resource
            model.message =
                "session \(session.id) lost server \(session.serverName ?? ""): \(detail)"
        case .moved(let session, let from, let reason, let duration):
            model.kind = "session_moved"
            model.session = UInt64(session.id)
            model.server = session.serverName
            model.resource = session.resource
            model.message =
                "session \(session.id) went on from \(from) to \(session.serverName ?? "")"
            model.details["from"] = from
            model.details["reason"] = reason.isEmpty ? "left in order" : reason
            model.details["duration_us"] = "\(duration / 1_000)"
        case .volume(let name, let member, let isOut, let detail):
            model.kind = isOut ? "volume_member_out" : "volume_member_in_service"
            model.resource = member
            model.details["volume"] = name
            model.message =
                isOut
                ? "volume \(name): \(member) leaves service: \(detail)"
                : "volume \(name): \(member) is in service again"
        case .login(let session, let isAccepted, let detail):
            model.kind = isAccepted ? "login_accepted" : "login_refused"
            model.session = UInt64(session.id)
            model.message = "login from \(session.client): \(detail)"
        }
        add(model)
    }
}
