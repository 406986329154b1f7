extension Placement {
    /// Whether loads are uneven enough to look for a better distribution. It says nothing about
    /// which one: the best single move that stops the trigger is usually not the best distribution.
    public struct Trigger: Hashable, Sendable {
        /// The most and the least loaded server; the first in the configuration among equals.
        public var highest: String
        public var lowest: String
        /// Their loads, divided by their weights.
        public var highestLoad: Double
        public var lowestLoad: Double
        /// For people.
        public var reason: String

        /// Fires when an available server has more than `ratio` times the load of another one;
        /// spares do not count. Exactly `ratio` times does not fire, also when the binary fractions
        /// are off by a little.
        ///
        /// Zero has no multiples, so loads near it have rules of their own:
        /// * no server is above `floor`: the system is idle, never fires;
        /// * a server has no load at all (a new one): fires only if a move to it could help, which
        ///   means that it would then have less than the server the resource comes from has now. A
        ///   server with all its load in one resource therefore does not fire.
        public init?(_ input: PlacementInput, policy: BalancePolicy) {
            let state = PlacementState(input)
            let servers = state.balanced
            guard let first = servers.first else { return nil }
            var (high, low) = (first, first)
            for server in servers.dropFirst() {
                if state.relativeLoad(server) > state.relativeLoad(high) { high = server }
                if state.relativeLoad(server) < state.relativeLoad(low) { low = server }
            }
            (highestLoad, lowestLoad) = (state.relativeLoad(high), state.relativeLoad(low))
            // No division: the lowest may be zero. The slack is far below what anybody measures.
            let limit = policy.ratio * lowestLoad
            guard highestLoad > policy.floor, highestLoad > limit + limit * 1e-9 else { return nil }
            if lowestLoad == 0, !Self.canHelp(state) { return nil }
            highest = state.servers[high].name
            lowest = state.servers[low].name
            reason =
                "\(highest) has load \(loadText(highestLoad)) and \(lowest) "
                + "\(loadText(lowestLoad)): more than \(policy.ratio) times"
        }

        private static func canHelp(_ state: PlacementState) -> Bool {
            let empty = Set(state.balanced.filter { state.totals[$0] == 0 })
            return state.resources.indices.contains { resource in
                guard state.canMove(resource), let place = state.places[resource] else {
                    return false
                }
                return state.holders[resource].contains {
                    empty.contains($0)
                        && state.relativeLoad($0, with: resource) < state.relativeLoad(place)
                }
            }
        }
    }
}

extension PlacementState {
    /// Servers among which loads are evened out, in the order of the configuration.
    var balanced: [Int] {
        servers.indices.filter { servers[$0].isAvailable && !servers[$0].isSpare }
    }

    /// Whether balancing may take a resource away: it does not touch what failover and spares are
    /// in charge of, and there is no point in moving what makes no load.
    func canMove(_ resource: Int) -> Bool {
        guard let place = places[resource], resources[resource].isMovable else { return false }
        return loads[resource] > 0 && servers[place].isAvailable && !servers[place].isSpare
    }
}
