/// Which server a new session gets, for resources that several servers serve at once (P29): by the time their
/// answers take and the sessions they have already.
package struct ServerSelection: Sendable {
    private struct Place: Sendable {
        var resource: String
        var server: String
    }

    private var choices: [String: ServerChoice] = [:]
    private var places: [UInt64: Place] = [:]

    package init() {}

    /// Chooses for a session; nil when `usable` is empty. Asked again for the same session, the server chosen
    /// before has failed to take it in: it is left out when there is another, and gets less for a while.
    package mutating func choose(
        for session: UInt64, of resource: String, among usable: [String], at now: UInt64,
        using random: inout some RandomNumberGenerator
    ) -> String? {
        var servers = usable
        if let place = places.removeValue(forKey: session) {
            choices[place.resource]?.failed(on: place.server, at: now)
            if place.resource == resource, servers.count > 1 {
                servers.removeAll { $0 == place.server }
            }
        }
        guard
            let server = choices[resource, default: ServerChoice()].choose(
                among: servers, at: now, using: &random)
        else { return nil }
        places[session] = Place(resource: resource, server: server)
        return server
    }

    /// Seconds that answers took in the last round, in the mean.
    package mutating func observe(
        _ resource: String, _ server: String, taking time: Double, at now: UInt64
    ) {
        choices[resource]?.observed(on: server, taking: time, at: now)
    }

    /// The session is logged in at a server, or (nil) it is over.
    package mutating func settled(_ session: UInt64, at server: String?) {
        guard let place = places[session], place.server != server else { return }
        choices[place.resource]?.left(place.server)
        places[session] = nil
    }

    /// Forgets what is no more.
    package mutating func keep(resources: Set<String>, servers: Set<String>) {
        choices = choices.filter { resources.contains($0.key) }
        for name in choices.keys { choices[name]?.keep(servers) }
    }
}
