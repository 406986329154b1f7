import DataPlane
import Foundation

/// What the kernel knows of its neighbours.
enum NeighbourTable {
    /// MAC address of an IPv4 neighbour at a device of the calling thread's network namespace; nil: not known.
    static func macAddress(of address: IPAddress, device: String) -> MACAddress? {
        guard let text = try? String(contentsOfFile: "/proc/thread-self/net/arp", encoding: .utf8)
        else { return nil }
        let wanted = "\(address)"
        for line in text.split(separator: "\n").dropFirst() {
            // IP address, HW type, flags, HW address, mask, device.
            let fields = line.split(separator: " ", omittingEmptySubsequences: true)
            guard fields.count >= 6, fields[0] == wanted, fields[5] == device else { continue }
            return MACAddress(String(fields[3]))
        }
        return nil
    }
}
