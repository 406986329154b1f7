// What placement looks at and what it answers: values only.

/// A server as placement sees it.
public struct PlacementServer: Hashable, Sendable {
    public var name: String
    /// Serves, and is not being emptied.
    public var isAvailable: Bool
    /// Used only while another server fails (P26).
    public var isSpare: Bool
    /// Load that does not come from the resources placed here (CPU and memory used by others), in
    /// the same unit as `PlacementResource.load`.
    public var ownLoad: Double
    /// Relative power: load is compared divided by it. Positive.
    public var weight: Double

    public init(
        name: String, isAvailable: Bool = true, isSpare: Bool = false, ownLoad: Double = 0,
        weight: Double = 1
    ) {
        self.name = name
        self.isAvailable = isAvailable
        self.isSpare = isSpare
        self.ownLoad = ownLoad
        self.weight = weight
    }
}

/// A resource as placement sees it.
public struct PlacementResource: Hashable, Sendable {
    public var name: String
    /// Servers that hold it, in order of preference.
    public var servers: [String]
    /// Where it is now; nil: nowhere yet.
    public var assigned: String?
    /// Where it belongs while a spare stands in for that server; nil: where it is assigned.
    /// Failover leaves it as it is; every other placement (by people, by balancing) sets it anew.
    public var home: String?
    /// In the unit of the load formula; not negative.
    public var load: Double
    /// False: stays where it is unless its server fails (a reservation, a rule of people).
    public var isMovable: Bool

    public init(
        name: String, servers: [String], assigned: String?, home: String? = nil, load: Double = 0,
        isMovable: Bool = true
    ) {
        self.name = name
        self.servers = servers
        self.assigned = assigned
        self.home = home
        self.load = load
        self.isMovable = isMovable
    }
}

/// One moment's state, whole.
public struct PlacementInput: Hashable, Sendable {
    /// In the order of the configuration; names are unique.
    public var servers: [PlacementServer]
    /// In the order of the configuration; names are unique.
    public var resources: [PlacementResource]

    public init(servers: [PlacementServer], resources: [PlacementResource]) {
        self.servers = servers
        self.resources = resources
    }
}

/// A resource that should change its server.
public struct PlannedMove: Hashable, Sendable {
    public var resource: String
    public var from: String?
    public var to: String

    public init(resource: String, from: String?, to: String) {
        self.resource = resource
        self.from = from
        self.to = to
    }
}
