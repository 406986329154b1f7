import Foundation

/// Says what cannot be done, and why.
struct LabError: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// Namespaces and devices belong to root.
func requireRoot() throws {
    guard geteuid() == 0 else {
        throw LabError("a lab needs network namespaces, which only root can make: run it with sudo")
    }
}
