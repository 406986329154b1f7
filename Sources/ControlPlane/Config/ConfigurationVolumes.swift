import StorageProtocols
import Yams

extension Configuration {
    /// The volume that a resource is a member of; nil: it is in none.
    public func volume(ofMember resource: String) -> VolumeDefinition? {
        volumes.first { $0.members.contains(resource) }
    }
}

extension ConfigurationReader {
    /// The section `volumes`.
    func volumes(
        _ node: Node?, resources: [Resource], hasAllUnitsTarget: Bool
    ) -> [VolumeDefinition] {
        var section = VolumeSection(
            self, resources: resources, hasAllUnitsTarget: hasAllUnitsTarget)
        return sequence(node, "volumes").map { section.volume($0.node, $0.field) }
    }
}

/// Reads volumes one after the other, and remembers what the next ones must not have.
private struct VolumeSection {
    private let reader: ConfigurationReader
    private let resources: [String: Resource]
    private let hasAllUnitsTarget: Bool
    private var names: Set<String> = []
    /// Names of volumes and resources by their unit number.
    private var unitOwners: [Int: String]
    /// Names of volumes by the path of their map, and by their members.
    private var mapOwners: [String: String] = [:]
    private var memberOwners: [String: String] = [:]

    init(_ reader: ConfigurationReader, resources: [Resource], hasAllUnitsTarget: Bool) {
        self.reader = reader
        self.resources = Dictionary(
            resources.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        self.hasAllUnitsTarget = hasAllUnitsTarget
        unitOwners = Dictionary(
            resources.compactMap { resource in resource.unit.map { ($0, resource.name) } },
            uniquingKeysWith: { first, _ in first })
    }

    mutating func volume(_ node: Node, _ field: String) -> VolumeDefinition {
        let values = reader.mapping(
            node, field, keys: ["name", "unit", "kind", "chunk_kib", "map", "members"],
            required: ["name", "unit", "kind", "members"])
        let name = readName(values["name"], "\(field).name")
        let owner = name.isEmpty ? field : name
        let kind = readKind(values["kind"], "\(field).kind")
        if kind == .mirror, values["map"] == nil {
            reader.fail(
                node, "\(field).map", "is missing: a mirror needs a file for its change map")
        }
        return VolumeDefinition(
            name: name, unit: readUnit(values["unit"], "\(field).unit", owner: owner) ?? 0,
            kind: kind ?? .concatenation,
            chunkKiB: readChunk(values["chunk_kib"], "\(field).chunk_kib", kind),
            mapPath: values["map"].flatMap { readMap($0, "\(field).map", kind, owner: owner) },
            members: readMembers(values["members"], "\(field).members", kind, owner: owner))
    }

    private mutating func readName(_ node: Node?, _ field: String) -> String {
        let name = reader.string(node, field)
        if name.isEmpty { return name }
        if resources[name] != nil {
            reader.fail(node, field, "\"\(name)\" is the name of a resource")
        } else if !names.insert(name).inserted {
            reader.fail(node, field, "\"\(name)\" is taken")
        }
        return name
    }

    /// Nil: there is none that is known, and what depends on it cannot be judged.
    private func readKind(_ node: Node?, _ field: String) -> VolumeDefinition.Kind? {
        let kind: VolumeDefinition.Kind = reader.choice(node, field, default: .concatenation)
        return node?.scalar?.string == kind.rawValue ? kind : nil
    }

    private mutating func readUnit(_ node: Node?, _ field: String, owner: String) -> Int? {
        guard let unit = reader.integer(node, field, in: 0...SCSIUnitNumber.maximum) else {
            return nil
        }
        if !hasAllUnitsTarget { reader.fail(node, field, "needs iscsi.all_units_target") }
        if let other = unitOwners[unit] {
            reader.fail(node, field, "\(unit) is taken by \(other)")
        } else {
            unitOwners[unit] = owner
        }
        return unit
    }

    private func readChunk(
        _ node: Node?, _ field: String, _ kind: VolumeDefinition.Kind?
    ) -> Int {
        if let node, let kind, kind != .stripe {
            reader.fail(node, field, "is for a stripe, not for a \(kind.rawValue)")
            return VolumeDefinition.standardChunkKiB
        }
        return reader.integer(
            node, field, in: VolumeDefinition.chunkKiBRange,
            default: VolumeDefinition.standardChunkKiB)
    }

    private mutating func readMap(
        _ node: Node, _ field: String, _ kind: VolumeDefinition.Kind?, owner: String
    ) -> String? {
        if let kind, kind != .mirror {
            reader.fail(node, field, "is for a mirror, not for a \(kind.rawValue)")
            return nil
        }
        let path = reader.string(node, field)
        if path.isEmpty { return nil }
        if !path.hasPrefix("/") {
            reader.fail(node, field, "must be an absolute path, not \"\(path)\"")
        } else if let other = mapOwners[path] {
            reader.fail(node, field, "\(path) is taken by \(other)")
        } else {
            mapOwners[path] = owner
        }
        return path
    }

    private mutating func readMembers(
        _ node: Node?, _ field: String, _ kind: VolumeDefinition.Kind?, owner: String
    ) -> [String] {
        var result: [String] = []
        for (node, field) in reader.sequence(node, field) {
            let name = reader.string(node, field)
            if !name.isEmpty { checkMember(name, node, field, owner: owner) }
            result.append(name)
        }
        let counts = (kind?.minimumMembers ?? 1)...VolumeDefinition.maximumMembers
        if node?.sequence != nil, !counts.contains(result.count) {
            reader.fail(
                node, field,
                "a \(kind?.rawValue ?? "volume") has \(counts.lowerBound) to "
                    + "\(counts.upperBound) members, not \(result.count)")
        }
        return result
    }

    private mutating func checkMember(
        _ name: String, _ node: Node, _ field: String, owner: String
    ) {
        guard let resource = resources[name] else {
            reader.fail(node, field, "there is no resource \(name)")
            return
        }
        if let other = memberOwners[name] {
            reader.fail(
                node, field,
                other == owner ? "\(name) is given twice" : "\(name) is in \(other) already")
            return
        }
        memberOwners[name] = owner
        if resource.export != nil {
            reader.fail(node, field, "\(name) is an NFS export: a member is of iSCSI")
        }
        if let unit = resource.unit {
            reader.fail(node, field, "\(name) is unit \(unit) itself: a member has no unit")
        }
        if resource.serving == .any {
            reader.fail(
                node, field, "\(name) has serve: any: a member is served by one server at a time")
        }
    }
}
