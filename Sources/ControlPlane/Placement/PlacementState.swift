/// The input with names resolved to positions and the loads summed up; moves are tried on it.
struct PlacementState {
    let servers: [PlacementServer]
    let resources: [PlacementResource]
    /// Position of a server by its name.
    let positions: [String: Int]
    /// Positions of the servers that hold a resource, in its order of preference; unknown names are
    /// left out.
    let holders: [[Int]]
    /// Load of each resource: never negative, always finite.
    let loads: [Double]
    /// Where each resource is; nil: nowhere, or on a server that is not known.
    private(set) var places: [Int?]
    /// Load of each server, own load included, not divided by its weight.
    private(set) var totals: [Double]
    /// Resources on each server: tells servers apart while all loads are zero.
    private(set) var counts: [Int]
    private let weights: [Double]

    init(_ input: PlacementInput) {
        servers = input.servers
        resources = input.resources
        var positions: [String: Int] = [:]
        for (position, server) in input.servers.enumerated() where positions[server.name] == nil {
            positions[server.name] = position
        }
        self.positions = positions
        holders = input.resources.map { resource in
            var seen: Set<Int> = []
            return resource.servers.compactMap { positions[$0] }.filter { seen.insert($0).inserted }
        }
        loads = input.resources.map { Self.usable($0.load) }
        weights = input.servers.map { $0.weight > 0 && $0.weight.isFinite ? $0.weight : 1 }
        places = input.resources.map { $0.assigned.flatMap { positions[$0] } }
        totals = input.servers.map { Self.usable($0.ownLoad) }
        counts = input.servers.map { _ in 0 }
        for (resource, place) in places.enumerated() {
            guard let place else { continue }
            totals[place] += loads[resource]
            counts[place] += 1
        }
    }

    /// A measurement that went wrong must not decide where data is served: it counts as no load.
    private static func usable(_ load: Double) -> Double { load.isFinite ? max(0, load) : 0 }

    func weight(_ server: Int) -> Double { weights[server] }

    /// Load of a server divided by its power.
    func relativeLoad(_ server: Int) -> Double { totals[server] / weights[server] }

    /// Relative load of a server if the resource were there.
    func relativeLoad(_ server: Int, with resource: Int) -> Double {
        if places[resource] == server { return relativeLoad(server) }
        return (totals[server] + loads[resource]) / weights[server]
    }

    /// Relative load of a server with another sum of loads.
    func relativeLoad(_ server: Int, total: Double) -> Double { total / weights[server] }

    mutating func move(_ resource: Int, to server: Int) {
        if let place = places[resource] {
            totals[place] -= loads[resource]
            counts[place] -= 1
        }
        places[resource] = server
        totals[server] += loads[resource]
        counts[server] += 1
    }

    /// Relative loads by name, for people.
    var loadsByName: [String: Double] {
        Dictionary(
            servers.indices.map { (servers[$0].name, relativeLoad($0)) },
            uniquingKeysWith: { first, _ in first })
    }
}
