/// Where resources should be: pure functions of one moment's state. Same input, same answer.
public enum Placement {
    /// Moves of the resources of `failed` servers to servers that survive.
    ///
    /// 1. A spare stands in for a whole failed server: the one that does so already, else the free
    ///    one (nothing is assigned to it) that holds most of the failed server's resources, the
    ///    first in the configuration among equals. One spare is enough for any number of servers.
    /// 2. What is left is split over the survivors: each takes its share by its weight, rounded up, and
    ///    no more while another has room. So a failure does not make one survivor the next to break
    ///    down, whatever the loads of this moment are; balancing corrects the rest.
    /// 3. The heaviest resource first, each to the server with the lowest load *after* the move, load
    ///    being divided by the server's weight. A spare that stands in already is one of these
    ///    servers: a second failure is shared by all.
    /// 4. Loads are measured, and noisy: those that differ by no more than half count as equal. Equal
    ///    resources go in the order of the configuration; of equal servers the one with fewer
    ///    resources is taken; then the *last* in the resource's own order. The last rule is a
    ///    convention: any fixed one would serve, this one gives the example in the specification (r1
    ///    to server3, r2 to server2 when server1 fails and all loads are equal).
    ///
    /// A spare is used only while a server that is no spare is not available. A resource that no
    /// available server holds stays where it is, without a move. Moves of resources that may not be
    /// moved are part of the answer: their server is gone. The moves are in the order of the
    /// configuration.
    public static func failover(of failed: Set<String>, in input: PlacementInput) -> [PlannedMove] {
        var relocation = Relocation(input, leaving: failed)
        return relocation.moves(of: { $0.assigned.map(failed.contains) ?? false })
    }

    /// Moves that empty a server which is alive, by the rules of `failover`. A resource that may
    /// not be moved stays: taking it away is not forced upon anybody, people have to decide.
    public static func drain(of server: String, in input: PlacementInput) -> [PlannedMove] {
        var relocation = Relocation(input, leaving: [server])
        return relocation.moves(of: { $0.assigned == server && $0.isMovable })
    }

    /// Moves back to a server that has returned: the resources at home there for which a spare
    /// stands in. What was spread over other servers stays there; balancing moves it when that is
    /// worth it. A resource that may not be moved stays.
    public static func giveBack(to server: String, in input: PlacementInput) -> [PlannedMove] {
        let state = PlacementState(input)
        guard let home = state.positions[server], state.servers[home].isAvailable else { return [] }
        return state.resources.indices.compactMap { position in
            let resource = state.resources[position]
            guard resource.home == server, resource.isMovable, let place = state.places[position],
                place != home, state.servers[place].isSpare, state.holders[position].contains(home)
            else { return nil }
            return PlannedMove(resource: resource.name, from: resource.assigned, to: server)
        }
    }

    /// Available servers for a resource other than the one it is on, the best first by the rules of
    /// `failover`: when the first one does not confirm, the next is taken. Spares are last, unless
    /// the resource's own server is not available: then the spare that stands in for it is first
    /// and the others go by their load.
    public static func candidates(for resource: String, in input: PlacementInput) -> [String] {
        let relocation = Relocation(input, leaving: [])
        let state = relocation.state
        guard let position = state.resources.firstIndex(where: { $0.name == resource }) else {
            return []
        }
        return relocation.candidates(for: position).map { state.servers[$0].name }
    }
}

/// Resources on their way from servers that serve no more.
struct Relocation {
    private(set) var state: PlacementState
    /// Servers that take resources.
    private let isOpen: [Bool]
    /// Spare that stands in for a server.
    private var standIns: [Int: Int] = [:]

    init(_ input: PlacementInput, leaving: Set<String>) {
        state = PlacementState(input)
        isOpen = input.servers.map { $0.isAvailable && !leaving.contains($0.name) }
        chooseStandIns()
    }

    /// Server that a resource was lost with: its home when that is gone (a spare that stood in may
    /// have failed too), else the one it is on. Nil when no server is lost that a spare may
    /// replace.
    private func lostServer(of resource: Int) -> Int? {
        let home = state.resources[resource].home.flatMap { state.positions[$0] }
        return [home, state.places[resource]].compactMap { $0 }
            .first { !isOpen[$0] && !state.servers[$0].isSpare }
    }

    /// Which spare stands in for which server that is lost, the servers in the order of the
    /// configuration.
    private mutating func chooseStandIns() {
        let spares = state.servers.indices.filter { state.servers[$0].isSpare && isOpen[$0] }
        if spares.isEmpty { return }
        var owned: [Int: [Int]] = [:]
        for resource in state.resources.indices {
            if let lost = lostServer(of: resource) { owned[lost, default: []].append(resource) }
        }
        var free = spares.filter { state.counts[$0] == 0 }
        for lost in owned.keys.sorted() {
            let resources = owned[lost] ?? []
            let active = best(of: spares) { spare in
                resources.count { state.places[$0] == spare }
            }
            let chosen =
                active
                ?? best(of: free) { spare in
                    resources.count { state.holders[$0].contains(spare) }
                }
            guard let chosen else { continue }
            standIns[lost] = chosen
            free.removeAll { $0 == chosen }
        }
    }

    /// The first of those with the highest score above zero.
    private func best(of spares: [Int], score: (Int) -> Int) -> Int? {
        var found: (spare: Int, score: Int)?
        for spare in spares {
            let value = score(spare)
            if value > (found?.score ?? 0) { found = (spare, value) }
        }
        return found?.spare
    }

    /// Servers that may take a resource, the best first.
    func candidates(for resource: Int) -> [Int] {
        let lost = lostServer(of: resource)
        let standIn = lost.flatMap { standIns[$0] }
        let open = state.holders[resource].enumerated().filter {
            isOpen[$0.element] && $0.element != state.places[resource]
        }
        func key(_ order: Int, _ server: Int) -> (Int, Double, Int, Int) {
            let rank = server == standIn ? 0 : lost == nil && state.servers[server].isSpare ? 2 : 1
            let load = state.relativeLoad(server, with: resource)
            return (rank, load, state.counts[server], -order)
        }
        return open.sorted { key($0.offset, $0.element) < key($1.offset, $1.element) }
            .map(\.element)
    }

    /// Loads that differ by no more than this ratio count as equal.
    private static let equality = 1.5

    /// Moves the chosen resources, those for a spare that stands in first and then the heaviest.
    mutating func moves(of isChosen: (PlacementResource) -> Bool) -> [PlannedMove] {
        let chosen = state.resources.indices.filter { isChosen(state.resources[$0]) }
        var targets: [Int: Int] = [:]
        for resource in chosen where hasStandIn(resource) {
            guard let target = usable(for: resource).first else { continue }
            state.move(resource, to: target)
            targets[resource] = target
        }
        var waiting = chosen.filter { targets[$0] == nil && !usable(for: $0).isEmpty }
        var room = shares(of: waiting)
        while let next = heaviest(of: waiting) {
            waiting.removeAll { $0 == next }
            guard let target = spread(next, room) else { continue }
            room[target, default: 0] -= 1
            state.move(next, to: target)
            targets[next] = target
        }
        return chosen.compactMap { resource in
            guard let target = targets[resource] else { return nil }
            let value = state.resources[resource]
            return PlannedMove(
                resource: value.name, from: value.assigned, to: state.servers[target].name)
        }
    }

    private func hasStandIn(_ resource: Int) -> Bool {
        guard let lost = lostServer(of: resource), let spare = standIns[lost] else { return false }
        return state.holders[resource].contains(spare)
    }

    /// The best first. A spare is none while no other server is lost.
    private func usable(for resource: Int) -> [Int] {
        let isLost = state.servers.indices.contains { !isOpen[$0] && !state.servers[$0].isSpare }
        return candidates(for: resource).filter { isLost || !state.servers[$0].isSpare }
    }

    /// How many of the resources each server takes.
    private func shares(of resources: [Int]) -> [Int: Int] {
        let takers = Set(resources.flatMap { usable(for: $0) })
        let sum = takers.reduce(0) { $0 + state.weight($1) }
        return Dictionary(
            uniqueKeysWithValues: takers.map { server in
                let share =
                    Double(resources.count) * state.weight(server)
                    / max(sum, .leastNonzeroMagnitude)
                return (server, Int(min(share.rounded(.up), Double(resources.count))))
            })
    }

    /// The first that nothing else outweighs.
    private func heaviest(of resources: [Int]) -> Int? {
        let limit = (resources.map { state.loads[$0] }.max() ?? 0) / Self.equality
        return resources.first { state.loads[$0] >= limit }
    }

    private func spread(_ resource: Int, _ room: [Int: Int]) -> Int? {
        let all = usable(for: resource)
        let free = all.filter { (room[$0] ?? 0) > 0 }
        let open = free.isEmpty ? all : free
        guard let lightest = open.map({ state.relativeLoad($0, with: resource) }).min() else {
            return nil
        }
        let holders = state.holders[resource]
        return open.filter {
            state.relativeLoad($0, with: resource) <= lightest * Self.equality
        }.min { left, right in
            let places = [left, right].map { holders.firstIndex(of: $0) ?? 0 }
            return (state.counts[left], -places[0]) < (state.counts[right], -places[1])
        }
    }
}
