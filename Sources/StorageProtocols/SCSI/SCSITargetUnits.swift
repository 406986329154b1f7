/// What is about a target with many units rather than about one of them: answered without asking any server.
///
/// A value for each I_T nexus: it remembers which units this initiator still has to be told of a change.
public struct SCSITargetUnits: Sendable {
    public enum Answer: Equatable, Sendable {
        /// Only the unit itself can answer.
        case unit(Int)
        case good([UInt8])
        case check(SCSISense)
    }

    /// Numbers of the units that there are.
    public private(set) var units: Set<Int>
    /// Those which have not said yet that the inventory has changed.
    private var attentions: Set<Int> = []
    private let vendor: String
    private let product: String

    public init(units: Set<Int>, vendor: String = "DSR", product: String = "VIRTUAL TARGET") {
        self.units = units
        self.vendor = vendor
        self.product = product
    }

    // SPC-4 section 6.33: "if the logical unit inventory changes [...] the device server shall establish a
    // unit attention condition for the initiator port associated with every I_T nexus, with the additional
    // sense code set to REPORTED LUNS DATA HAS CHANGED".
    /// The inventory is another one now.
    public mutating func change(to units: Set<Int>) {
        guard units != self.units else { return }
        self.units = units
        attentions = units
    }

    /// - Parameter unit: number from the LUN field; nil: an address that no unit has.
    public mutating func answer(_ command: SCSICommand, unit: Int?) -> Answer {
        if case .reportUnits(let select, let allocation) = command {
            // Every target answers it at unit 0, and at any unit that it has (SPC-4 section 6.33).
            guard unit == 0 || unit.map(units.contains) == true else {
                return .check(.unitNotSupported)
            }
            return reportUnits(select, allocation)
        }
        guard let unit, units.contains(unit) else { return missing(command, isFirst: unit == 0) }
        // SAM-5 section 5.14.1: INQUIRY, REPORT LUNS and REQUEST SENSE do not meet the condition.
        switch command {
        case .inquiry: break
        case .requestSense(let descriptor, let allocation):
            // SPC-4 section 6.39: it says the condition, and so takes it away.
            guard attentions.remove(unit) != nil else { break }
            return .good(Self.sense(.reportedUnitsChanged, descriptor, allocation))
        default:
            if attentions.remove(unit) != nil { return .check(.reportedUnitsChanged) }
        }
        return .unit(unit)
    }

    private static func sense(
        _ sense: SCSISense, _ descriptor: Bool, _ allocation: Int
    ) -> [UInt8] {
        Array((descriptor ? sense.descriptors : sense.fixed).prefix(allocation))
    }

    /// A unit that is not there (SPC-4 section 6.6.2: PERIPHERAL QUALIFIER; SAM-5 section 5.11).
    private func missing(_ command: SCSICommand, isFirst: Bool) -> Answer {
        switch command {
        case .inquiry(let page, let allocation):
            guard page == nil else { return .check(.unitNotSupported) }
            // 001b: a unit could be here but none is; 011b: none can be.
            return .good(Array(standardInquiry(isFirst ? 0x3f : 0x7f).prefix(allocation)))
        case .requestSense(let descriptor, let allocation):
            return .good(Self.sense(.unitNotSupported, descriptor, allocation))
        default: return .check(.unitNotSupported)
        }
    }

    private func standardInquiry(_ peripheral: UInt8) -> [UInt8] {
        var octets = [UInt8](repeating: 0, count: 36)
        octets[0] = peripheral
        // SPC-3, response data format 2, HISUP.
        octets[2] = 5
        octets[3] = 0x12
        octets[4] = 31
        // CMDQUE.
        octets[7] = 0x02
        Self.put(vendor, 8, into: &octets, at: 8)
        Self.put(product, 16, into: &octets, at: 16)
        Self.put("1", 4, into: &octets, at: 32)
        return octets
    }

    static func put(_ text: String, _ length: Int, into octets: inout [UInt8], at place: Int) {
        let padded = Array(text.utf8.prefix(length)) + [UInt8](repeating: 0x20, count: length)
        octets.replaceSubrange(place..<place + length, with: padded.prefix(length))
    }

    private mutating func reportUnits(_ select: UInt8, _ allocation: Int) -> Answer {
        // SPC-4 section 6.33: less than 16 octets cannot hold one unit.
        guard allocation >= 16 else { return .check(.invalidField) }
        let listed: [Int]
        switch select {
        case 0, 2: listed = units.sorted()
        // Well known units only: there are none.
        case 1: listed = []
        default: return .check(.invalidField)
        }
        attentions = []
        let length = UInt32(listed.count * 8)
        var octets = (0..<4).map { UInt8(truncatingIfNeeded: length >> UInt32(24 - $0 * 8)) }
        octets += [0, 0, 0, 0]
        for unit in listed { octets += SCSIUnitNumber.octets(unit) }
        return .good(Array(octets.prefix(allocation)))
    }
}
