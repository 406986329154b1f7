/// A switch port as the pipeline sees it. One worker thread calls everything here.
///
/// Implementations: packet socket, TAP, capture file, memory; wrappers add faults or a recording.
/// No method blocks, and none but `maintain` allocates.
public protocol Port: AnyObject {
    /// Name of the device or of the test port; unique in a switch.
    var name: String { get }
    /// A descriptor to poll for input, or -1 when `receive` must simply be called. May change in
    /// `maintain` (a device that came back has a new socket).
    var pollDescriptor: Int32 { get }
    /// False while the device is gone or its link is down.
    var isUp: Bool { get }
    /// True when `receive` may hold frames that a poll on `pollDescriptor` would not report (delayed
    /// frames of a fault injector, memory ports). The worker then polls with a short time-out.
    var needsPolling: Bool { get }

    /// Fills `burst` with up to `limit` frames and returns their number. Frames stay valid, and may be
    /// changed in place, until the next call of `receive` on this port. `now` is monotonic ns.
    func receive(into burst: UnsafeMutablePointer<Frame>, limit: Int, now: UInt64) -> Int

    /// Queues a frame for sending. Its memory must stay as it is until `flush` returns.
    func transmit(_ frame: Frame, now: UInt64)

    /// Sends everything queued. What the device does not take is dropped and counted.
    func flush(now: UInt64)

    /// Called about every 100 ms: notices a vanished device, joins one that came back, reads the
    /// kernel's drop counters. May allocate and make system calls. Returns true when `isUp` or
    /// `pollDescriptor` changed.
    func maintain(now: UInt64) -> Bool

    /// Sum since the start; packet and byte counters are kept by the pipeline, these are the device's.
    var deviceCounters: PortDeviceCounters { get }
}

/// What happened below the pipeline, at the device.
public struct PortDeviceCounters: Equatable, Sendable {
    /// Frames that the device or its queue did not take.
    public var transmitDrops: UInt64 = 0
    /// Frames longer than the receive buffer: dropped.
    public var receiveTruncated: UInt64 = 0
    /// Frames that a fault injector lost, in either direction, on purpose or because too many were late.
    public var faultDrops: UInt64 = 0
    /// Frames that the kernel dropped because we were too slow (PACKET_STATISTICS tp_drops).
    public var receiveDrops: UInt64 = 0
    /// How often a device was joined again after it had vanished.
    public var rejoins: UInt64 = 0
    public init() {}

    /// Reasons of what was dropped here, with counts.
    var drops: [(reason: DropReason, count: UInt64)] {
        [
            (.transmitRefused, transmitDrops), (.receiveTruncated, receiveTruncated),
            (.receiveQueueFull, receiveDrops), (.faultInjected, faultDrops),
        ]
    }
}
