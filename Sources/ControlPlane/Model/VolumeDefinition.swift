/// One logical unit of the target that has them all, made of several resources.
public struct VolumeDefinition: Hashable, Sendable {
    public enum Kind: String, CaseIterable, Hashable, Sendable {
        /// The members' blocks one after the other.
        case concatenation
        /// Chunks of the members in turn.
        case stripe
        /// The same blocks at every member.
        case mirror

        /// With fewer members there is nothing to stripe or to mirror.
        var minimumMembers: Int { self == .concatenation ? 1 : 2 }
    }

    /// Unique name, which no resource has either.
    public var name: String
    /// Its logical unit number, from 0 to `SCSIUnitNumber.maximum`; no other volume or resource has it.
    public var unit: Int
    public var kind: Kind
    /// KiB that a stripe puts at one member before it goes on to the next; other kinds do not use it.
    public var chunkKiB: Int
    /// Absolute path of the file of a mirror's change map; nil: other kinds have none.
    public var mapPath: String?
    /// Names of resources, 1 to 16, in the order of their blocks. Each is in this volume only.
    public var members: [String]

    public init(
        name: String, unit: Int, kind: Kind, chunkKiB: Int = VolumeDefinition.standardChunkKiB,
        mapPath: String? = nil, members: [String]
    ) {
        self.name = name
        self.unit = unit
        self.kind = kind
        self.chunkKiB = chunkKiB
        self.mapPath = mapPath
        self.members = members
    }

    public static let standardChunkKiB = 64
    static let chunkKiBRange = 4...16_384
    static let maximumMembers = 16
}
