/// What `tgtadm --lld iscsi --op show --mode target` prints, as far as agents need it.
///
///     Target 1: iqn.2026-01.lab.dsr:r1
///         System information:
///             State: ready
///         LUN information:
///             LUN: 1
///                 Type: disk
///                 Online: Yes
public enum TargetAdministratorOutput {
    /// Octets that are read.
    public static let lengthMaximum = 4 << 20

    private struct Target {
        var name: String
        var isReady = false
        /// Of the logical unit that is being read.
        var isDisk = false
        var section = ""
        var lunCount = 0
    }

    /// A resource for each target: serving when it is ready and has a logical unit that is online. It is named
    /// by what stands behind the target name's last colon, or by the whole where that is no name or not unique.
    public static func resources(_ text: String) -> [AnnouncedResource] {
        var targets: [Target] = []
        for line in text.split(separator: "\n") {
            let isHead = !line.hasPrefix(" ")
            let words = line.split(separator: " ")
            if isHead {
                guard words.count == 3, words[0] == "Target", words[1].hasSuffix(":") else {
                    continue
                }
                targets.append(Target(name: String(words[2])))
            } else if !targets.isEmpty {
                read(words, &targets[targets.count - 1])
            }
        }
        return named(targets)
    }

    private static func read(_ words: [Substring], _ target: inout Target) {
        // Lines mean something in their own section only: others repeat what initiators have said.
        switch (target.section, words.first, words.last) {
        case (_, .some(let first), "information:"): target.section = String(first)
        case ("System", "State:", let state): target.isReady = state == "ready"
        case ("LUN", "LUN:", _): target.isDisk = false
        case ("LUN", "Type:", let type): target.isDisk = type != "controller"
        case ("LUN", "Online:", "Yes") where target.isDisk: target.lunCount += 1
        default: break
        }
    }

    private static func named(_ targets: [Target]) -> [AnnouncedResource] {
        let short = targets.map { String($0.name.split(separator: ":").last ?? "") }
        var seen: Set<String> = []
        return zip(targets, short).compactMap { target, name in
            let isUnique = short.count { $0 == name } == 1
            let name = isUnique && AnnouncedResource.isName(name) ? name : target.name
            guard AnnouncedResource.isName(name), AnnouncedResource.isTarget(target.name),
                seen.insert(target.name.lowercased()).inserted
            else { return nil }
            return AnnouncedResource(
                name: name, target: target.name,
                state: target.isReady && target.lunCount > 0 ? .serving : .standby,
                lunCount: UInt16(clamping: target.lunCount))
        }
    }
}
