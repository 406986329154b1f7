// Units that are made of several resources, for people. They live on the session thread.
extension Daemon {
    public func volumes() async -> [VolumeModel] {
        await onLoop { [self] in portal.volumes.map { VolumeModel($0.summary) } }
    }

    public func volume(_ name: String) async throws(ControlError) -> VolumeModel {
        let all = await volumes()
        guard let model = all.first(where: { $0.name == name }) else {
            throw ControlError(
                .notFound, "there is no volume \(name)",
                suggestion: all.isEmpty
                    ? "the configuration has no volumes"
                    : "there are " + all.map(\.name).joined(separator: ", "))
        }
        return model
    }
}

extension VolumeModel {
    init(_ summary: VolumeSummary) {
        self.init()
        name = summary.name
        unit = summary.unit
        kind = summary.kind
        capacity = summary.capacity
        trouble = summary.trouble
        changedRegions = summary.changedRegions
        regions = summary.regions
        members = summary.members.map { VolumeMemberModel($0) }
    }
}

extension VolumeMemberModel {
    init(_ member: VolumeSummary.Member) {
        self.init()
        resource = member.resource
        server = member.server
        state = VolumeMemberState(rawValue: member.state) ?? .out
        reason = member.reason
        copied = member.copied
        toCopy = member.toCopy
    }
}

/// Volumes for Prometheus.
package enum VolumeMetrics {
    package static func families(_ volumes: [VolumeModel]) -> [MetricFamily] {
        var states = MetricFamily(
            name: "dsr_volume_member_state",
            help: "1 for the state that a volume's member is in; none while nobody has used it.",
            kind: .gauge)
        var changed = MetricFamily(
            name: "dsr_volume_changed_regions",
            help: "Regions in which the members of a mirror may differ.", kind: .gauge)
        var copied = MetricFamily(
            name: "dsr_volume_copied_regions",
            help: "Regions that a returning member of a mirror was given.", kind: .gauge)
        var toCopy = MetricFamily(
            name: "dsr_volume_regions_to_copy",
            help: "Regions that a returning member of a mirror is given altogether.", kind: .gauge)
        for volume in volumes {
            let label = MetricFamily.Label("volume", volume.name)
            if let count = volume.changedRegions { changed.add(number(count), label) }
            for member in volume.members {
                let name = MetricFamily.Label("member", member.resource)
                for state in VolumeMemberState.allCases {
                    let isIn = volume.capacity != nil && member.state == state
                    states.add(UInt64(isIn ? 1 : 0), label, name, .init("state", state.rawValue))
                }
                guard member.state == .copying else { continue }
                copied.add(number(member.copied ?? 0), label, name)
                toCopy.add(number(member.toCopy ?? 0), label, name)
            }
        }
        return [states, changed, copied, toCopy]
    }

    private static func number(_ count: Int) -> UInt64 { UInt64(max(0, count)) }
}
