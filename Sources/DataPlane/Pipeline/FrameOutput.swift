/// Where parts of the pipeline put frames, drops and events. `PortSet` is the one that is real; tests
/// of a single part bring their own.
protocol FrameOutput: ~Copyable {
    /// Queues `frame` on a port and counts it. The memory must stay as it is until the burst is flushed.
    mutating func transmit(_ frame: Frame, to port: PortNumber, now: UInt64)
    /// Queues `frame` on the CPU port of a domain.
    mutating func transmitToCPU(_ frame: Frame, domain: DomainID, now: UInt64)
    /// A spare frame buffer (bufferSize octets, virtio header zeroed, length 0), valid until the burst
    /// is flushed. Flushes early by itself when the arena is used up.
    mutating func scratch(now: UInt64) -> Frame
    /// Sends all that is queued now: after this, queued memory may be used again.
    mutating func flush(now: UInt64)
    mutating func count(_ reason: DropReason)
    /// False when the event was lost.
    @discardableResult mutating func emit(_ event: Event) -> Bool
    /// Port where a MAC address of this domain was last seen; 0 when unknown.
    func port(of mac: MACAddress, vlan: UInt16, domain: DomainID) -> PortNumber
    /// Octets of IP that a port can send; 0: unknown, or there is no such port.
    func mtu(of port: PortNumber) -> Int
}
