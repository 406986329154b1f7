import CLinux
import DataPlane
import Glibc

/// A socket that is to exist at given positions.
struct RepairSpecification {
    var local: SocketAddress
    var remote: SocketAddress
    var positions: SocketPositions
    var maximumSegment: Int
    var remoteScale: UInt8
    var localScale: UInt8
    var usesSACK: Bool
    var usesTimestamps: Bool
    var device: String
}

/// Linux' TCP_REPAIR: taking an established socket apart and putting one together, silently. The order of
/// the steps matters; it was found by experiment (DESIGN.md, "Splice and unsplice").
enum TCPRepair {
    /// Freezes a socket and reads where it is. It stays in repair mode.
    static func freeze(
        _ descriptor: Int32, timestamps: Bool
    ) throws(SystemCallError) -> SocketPositions {
        try check("TCP_REPAIR", dsr_repair_on(descriptor))
        var receive: UInt32 = 0
        var send: UInt32 = 0
        var timestamp: UInt32 = 0
        var window = dsr_repair_window()
        try check("TCP_QUEUE_SEQ", dsr_queue_sequence(descriptor, 0, &receive))
        try check("TCP_QUEUE_SEQ", dsr_queue_sequence(descriptor, 1, &send))
        try check("TCP_REPAIR_WINDOW", dsr_repair_window_read(descriptor, &window))
        if timestamps { try check("TCP_TIMESTAMP", dsr_timestamp_read(descriptor, &timestamp)) }
        return SocketPositions(
            receiveNext: SequenceNumber(receive), sendNext: SequenceNumber(send),
            sendWindow: window.snd_wnd, sendWL1: window.snd_wl1, maximumWindow: window.max_window,
            receiveWindow: window.rcv_wnd, receiveWindowUpdate: window.rcv_wup,
            timestamp: timestamp)
    }

    /// Undoes `freeze`.
    static func thaw(_ descriptor: Int32) throws(SystemCallError) {
        try check("TCP_REPAIR", dsr_repair_off(descriptor))
    }

    /// Closes a frozen socket: nothing is sent.
    static func closeSilently(_ descriptor: Int32) { _ = close(descriptor) }

    /// Closes a socket that is not frozen: nothing is sent.
    static func closeSilentlyAgain(_ descriptor: Int32) {
        _ = dsr_repair_on(descriptor)
        _ = close(descriptor)
    }

    /// A new established socket.
    static func restore(_ wanted: RepairSpecification) throws(SystemCallError) -> Int32 {
        var native = dsr_restore()
        native.local = wanted.local.native
        native.remote = wanted.remote.native
        native.receive_next = wanted.positions.receiveNext.rawValue
        native.send_next = wanted.positions.sendNext.rawValue
        native.timestamp = wanted.positions.timestamp
        native.window = dsr_repair_window(
            snd_wl1: wanted.positions.sendWL1, snd_wnd: wanted.positions.sendWindow,
            max_window: wanted.positions.maximumWindow, rcv_wnd: wanted.positions.receiveWindow,
            rcv_wup: wanted.positions.receiveWindowUpdate)
        native.mss = Int32(wanted.maximumSegment)
        native.remote_scale = Int32(wanted.remoteScale)
        native.local_scale = Int32(wanted.localScale)
        native.sack = wanted.usesSACK ? 1 : 0
        native.timestamps = wanted.usesTimestamps ? 1 : 0
        return try check(
            "restore", dsr_restore_socket(&native, wanted.device),
            context: "\(wanted.local) > \(wanted.remote)")
    }
}
