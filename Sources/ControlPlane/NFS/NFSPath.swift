/// A path that a client mounts: octets, of which servers know what characters they are.
package struct NFSPath: Hashable, Sendable {
    /// Without empty ones and ".".
    package let names: [[UInt8]]

    private static let separator = UInt8(ascii: "/")

    /// Nil: it is not absolute, or goes back by "..", by which what is before it need not be where it seems.
    package init?(_ octets: [UInt8]) {
        guard octets.first == Self.separator else { return nil }
        let dot = UInt8(ascii: ".")
        let parts = octets.split(separator: Self.separator).map(Array.init)
        if parts.contains([dot, dot]) { return nil }
        names = parts.filter { $0 != [dot] }
    }

    /// What comes behind `other`; nil: it is not below it, nor the same.
    package func names(behind other: NFSPath) -> ArraySlice<[UInt8]>? {
        names.starts(with: other.names) ? names.dropFirst(other.names.count) : nil
    }

    package func appending(_ more: ArraySlice<[UInt8]>) -> NFSPath {
        NFSPath(names: names + more)
    }

    private init(names: [[UInt8]]) { self.names = names }

    /// Absolute, without a slash at its end.
    package var octets: [UInt8] {
        names.isEmpty ? [Self.separator] : names.flatMap { [Self.separator] + $0 }
    }
}
