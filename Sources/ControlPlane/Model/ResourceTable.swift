/// Resource to server: where each resource is served now. A value: whoever holds a copy has a
/// consistent table, and `version` tells copies apart.
public struct ResourceTable: Sendable, Hashable {
    private var byName: [String: Resource] = [:]
    private var nameByPlace: [Place: String] = [:]
    private var order: [String] = []
    /// Grows by one with every change of an assignment.
    public private(set) var version: UInt64 = 0

    public init() {}

    /// What clients find a resource by; no two have the same.
    private enum Place: Hashable {
        /// iSCSI names compare after normalisation to lower case (RFC 7143 section 4.2.7.1).
        case target(String)
        case export(String)

        init(_ resource: Resource) {
            if let export = resource.export {
                self = .export(export.directory)
            } else {
                self = .target(resource.target.lowercased())
            }
        }
    }

    /// Of resources with the same name, target or export the first one counts; a validated configuration
    /// has none.
    public init(_ resources: [Resource]) {
        for resource in resources { insert(resource) }
    }

    /// False, and no change, when something else has its name or its place.
    @discardableResult
    private mutating func insert(_ resource: Resource) -> Bool {
        let place = Place(resource)
        guard byName[resource.name] == nil, nameByPlace[place] == nil else { return false }
        byName[resource.name] = resource
        nameByPlace[place] = resource.name
        order.append(resource.name)
        return true
    }

    public var count: Int { order.count }

    /// In the order of the configuration.
    public var all: [Resource] { order.compactMap { byName[$0] } }

    public subscript(name: String) -> Resource? { byName[name] }

    /// The resource with this iSCSI target name; letter case does not count.
    public func resource(target: String) -> Resource? {
        nameByPlace[.target(target.lowercased())].flatMap { byName[$0] }
    }

    public func assignedServer(of resource: String) -> String? { byName[resource]?.assigned }

    /// Resources that `server` serves now.
    public func assigned(to server: String) -> [Resource] { all.filter { $0.assigned == server } }

    /// True: `server` serves something now.
    public func isServing(_ server: String) -> Bool {
        byName.values.contains { $0.assigned == server }
    }

    /// Other servers that hold the resource, in order of preference.
    public func candidates(for resource: String) -> [String] {
        guard let entry = byName[resource] else { return [] }
        return entry.servers.filter { $0 != entry.assigned }
    }

    /// Why an assignment was refused.
    public enum AssignmentError: Error, Hashable, Sendable {
        case noSuchResource(String)
        /// The server does not hold the resource.
        case notACandidate(resource: String, server: String)
    }

    /// Moves a resource in the table. To be called only after the new server has confirmed that it
    /// serves the resource.
    public mutating func assign(_ resource: String, to server: String) throws(AssignmentError) {
        guard var entry = byName[resource] else { throw .noSuchResource(resource) }
        guard entry.servers.contains(server) else {
            throw .notACandidate(resource: resource, server: server)
        }
        guard entry.assigned != server else { return }
        entry.assigned = server
        byName[resource] = entry
        version += 1
    }

    /// A server holds the resource from now on, as the last choice.
    public mutating func addHolder(_ server: String, of resource: String) throws(AssignmentError) {
        guard let entry = byName[resource] else { throw .noSuchResource(resource) }
        if !entry.servers.contains(server) { byName[resource]?.servers.append(server) }
    }

    /// A resource that was not known. False, and no change, when its name, its target or its export is.
    public mutating func add(_ resource: Resource) -> Bool {
        guard insert(resource) else { return false }
        version += 1
        return true
    }

    /// A server holds nothing any more. False, and no change, when it still serves something.
    public mutating func removeHolder(_ server: String) -> Bool {
        if isServing(server) { return false }
        for name in order { byName[name]?.servers.removeAll { $0 == server } }
        return true
    }
}
