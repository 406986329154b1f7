import DataPlane
import StorageProtocols

/// What a connection has called for: whether one server has served all of it lately, by calls that the dataplane can
/// pass.
package struct NFSStreamUses {
    /// File handles, and the places of their resources.
    private var handles: [[UInt8]: Int] = [:]
    /// Names of resources by place.
    private var resources: [String] = []
    /// Resource of the newest call; nil: there was none.
    package private(set) var newest: String?
    /// ns, when there was something else last, or another server.
    package private(set) var otherAt: UInt64

    package init(at now: UInt64) { otherAt = now }

    /// A call of NFS goes to a server as the client said it: the handle that it begins with is the server's own.
    package mutating func use(_ call: [UInt8], resource: String, at now: UInt64) {
        newest = resource
        guard let handle = RPCHandleSet.handle(of: call) else { return useOther(at: now) }
        let octets = Array(call[handle])
        guard handles[octets] == nil else { return }
        if handles.count == RPCHandleSet.capacity { handles = [:] }
        if let place = resources.firstIndex(of: resource) {
            handles[octets] = place
        } else if resources.count < RPCHandleSet.resourceMaximum {
            handles[octets] = resources.count
            resources.append(resource)
        } else {
            useOther(at: now)
        }
    }

    /// Something that only the control plane can take, or at another server.
    package mutating func useOther(at now: UInt64) { otherAt = now }

    /// Handles of those resources that are `wanted`, with the names of resources by place.
    package func handles(
        where wanted: (String) -> Bool
    ) -> (handles: [[UInt8]: Int], resources: [String]) {
        let places = resources.indices.filter { wanted(resources[$0]) }
        let moved = Dictionary(uniqueKeysWithValues: zip(places, 0...))
        return (handles.compactMapValues { moved[$0] }, places.map { resources[$0] })
    }
}
