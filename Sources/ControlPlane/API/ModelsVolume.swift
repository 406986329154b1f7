/// `GET /volumes`, `GET /volumes/NAME`: a unit that is made of several resources.
public struct VolumeModel: Codable, Hashable, Sendable {
    public var name = ""
    /// Its logical unit number.
    public var unit = 0
    /// `concatenation`, `stripe` or `mirror`.
    public var kind = ""
    /// Octets; nil: its members have not been asked yet, or could not answer. What is said of members then is
    /// only how they begin.
    public var capacity: UInt64?
    /// Why it cannot be used; nil: it can, or nobody has tried.
    public var trouble: String?
    /// Regions in which members of a mirror may differ; nil: not known yet, or no mirror.
    public var changedRegions: Int?
    /// All regions of the mirror.
    public var regions: Int?
    /// In the order of their blocks.
    public var members: [VolumeMemberModel] = []
    public init() {}
}

/// A resource that a volume is made of.
public struct VolumeMemberModel: Codable, Hashable, Sendable {
    public var resource = ""
    /// That serves it now.
    public var server: String?
    public var state = VolumeMemberState.inService
    /// Why it is out.
    public var reason: String?
    /// Regions that it was given, of `toCopy`, while it is being copied to.
    public var copied: Int?
    public var toCopy: Int?
    public init() {}
}

/// Whether a mirror's member takes part; members of other volumes are always in service.
public enum VolumeMemberState: String, CaseIterable, Codable, Hashable, Sendable {
    case inService = "in_service"
    /// It has missed writes, or may have.
    case out
    /// It takes part in writes, and is given what it has missed.
    case copying
}
