package import DataPlane

/// A host that locks files: the name that it says, and where it says it from.
package struct NLMCaller: Hashable, Sendable {
    package let address: IPAddress
    /// As octets.
    package let name: [UInt8]

    package init(address: IPAddress, name: [UInt8]) {
        self.address = address
        self.name = name
    }

    /// A host says its name with or without its domain, and NSM does not always say it as NLM does.
    func isSame(address: IPAddress, name: [UInt8]) -> Bool {
        func host(_ name: [UInt8]) -> ArraySlice<UInt8> {
            name.prefix { $0 != UInt8(ascii: ".") }
        }
        guard address == self.address else { return false }
        // Of addresses the first number says nothing.
        let isNumber = name.first.map { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
        return name == self.name || (isNumber == false && host(name) == host(self.name))
    }
}

/// Who has locks, as clients say it.
package struct NLMOwnerIdentity: Hashable, Sendable {
    package let caller: NLMCaller
    package let svid: UInt32
    /// Opaque.
    package let owner: [UInt8]

    package init(caller: NLMCaller, svid: UInt32, owner: [UInt8]) {
        self.caller = caller
        self.svid = svid
        self.owner = owner
    }

    /// No two have the same.
    fileprivate var octets: [UInt8] {
        let lengths = [UInt64(caller.name.count), UInt64(owner.count), UInt64(svid)]
        return (lengths + [caller.address.high, caller.address.low]).flatMap(Self.octets)
            + caller.name + owner
    }

    fileprivate static func octets(_ word: UInt64) -> [UInt8] {
        (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64(56 - 8 * $0)) }
    }
}

/// Who has locks, as servers are told. They see one host, ours: owners of all clients are told apart by numbers of
/// ours, of which servers look at one (Linux: svid) or at both.
final class NLMOwner {
    let identity: NLMOwnerIdentity
    let id: UInt64
    let svid: UInt32
    private weak var owners: NLMOwners?

    fileprivate init(
        _ identity: NLMOwnerIdentity, id: UInt64, svid: UInt32, owners: NLMOwners
    ) {
        self.identity = identity
        self.id = id
        self.svid = svid
        self.owners = owners
    }

    deinit { owners?.forget(identity, id, svid) }

    /// What servers get as the opaque owner.
    var octets: [UInt8] { NLMOwnerIdentity.octets(id) }
}

/// Owners that something is known of: those live as long as somebody has them.
final class NLMOwners {
    private struct Reference {
        weak var owner: NLMOwner?
    }

    private var byIdentity: [NLMOwnerIdentity: Reference] = [:]
    private var byID: [UInt64: Reference] = [:]
    private var svids: Set<UInt32> = []
    private let key: (UInt64, UInt64)

    /// - Parameter seed: with the same one an owner has the same numbers: what it had locked before a restart of the
    ///   switch it can still unlock.
    init(seed: UInt64) {
        let hash = SipHash.hash("DSR NLM".utf8, key: (seed, 0))
        key = (hash.first, hash.second)
    }

    func owner(_ identity: NLMOwnerIdentity) -> NLMOwner {
        if let known = byIdentity[identity]?.owner { return known }
        let hash = SipHash.hash(identity.octets, key: key)
        var id = hash.first
        while byID[id] != nil { id &+= 1 }
        // Servers have it as a signed number.
        var svid = UInt32(truncatingIfNeeded: hash.second) & 0x7fff_ffff
        while svids.contains(svid) { svid = (svid + 1) & 0x7fff_ffff }
        let owner = NLMOwner(identity, id: id, svid: svid, owners: self)
        byIdentity[identity] = Reference(owner: owner)
        byID[id] = Reference(owner: owner)
        svids.insert(svid)
        return owner
    }

    /// The one that a server speaks of; nil: none of ours.
    func owner(octets: [UInt8], svid: UInt32) -> NLMOwner? {
        guard octets.count == 8 else { return nil }
        let id = octets.reduce(0) { $0 << 8 | UInt64($1) }
        guard let owner = byID[id]?.owner, owner.svid == svid else { return nil }
        return owner
    }

    fileprivate func forget(_ identity: NLMOwnerIdentity, _ id: UInt64, _ svid: UInt32) {
        byIdentity[identity] = nil
        byID[id] = nil
        svids.remove(svid)
    }
}
