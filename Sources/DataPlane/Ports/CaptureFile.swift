import CLinux
import CPcap
import Glibc

/// Writes frames to a capture file through libpcap, with nanoseconds.
final class CaptureWriter: @unchecked Sendable {
    private let handle: OpaquePointer
    private let dumper: OpaquePointer
    private var program = bpf_program()
    private var hasFilter = false

    init(path: String, filter: String? = nil) throws(PortError) {
        guard
            let handle = pcap_open_dead_with_tstamp_precision(
                DLT_EN10MB, 262_144, UInt32(PCAP_TSTAMP_PRECISION_NANO))
        else { throw PortError(port: path, message: "no memory for a capture") }
        if let filter {
            guard pcap_compile(handle, &program, filter, 1, 0xffff_ffff) == 0 else {
                let message = String(cString: pcap_geterr(handle))
                pcap_close(handle)
                throw PortError(port: path, message: "filter \"\(filter)\": \(message)")
            }
            hasFilter = true
        }
        guard let dumper = pcap_dump_open(handle, path) else {
            let message = String(cString: pcap_geterr(handle))
            pcap_close(handle)
            throw PortError(port: path, message: message)
        }
        self.handle = handle
        self.dumper = dumper
    }

    deinit {
        pcap_dump_close(dumper)
        if hasFilter { pcap_freecode(&program) }
        pcap_close(handle)
    }

    /// What the disk said since the start; nil: everything was taken.
    var failure: String? {
        guard let file = pcap_dump_file(dumper), ferror(file) != 0 else { return nil }
        return failureText ?? "cannot be written"
    }
    private var failureText: String?

    /// Hands what is buffered to the system; `failure` tells whether it was taken.
    func flush() {
        errno = 0
        if pcap_dump_flush(dumper) != 0, errno != 0 {
            failureText = String(cString: strerror(errno))
        }
    }

    /// False when the filter does not take the frame. `time`: ns since 1970; nil: now.
    func write(_ frame: Frame, time: UInt64? = nil) -> Bool {
        var header = pcap_pkthdr()
        header.caplen = UInt32(truncatingIfNeeded: frame.length)
        header.len = header.caplen
        if let time {
            header.ts.tv_sec = Int(time / 1_000_000_000)
            header.ts.tv_usec = Int(time % 1_000_000_000)
        } else {
            var clock = timespec()
            clock_gettime(CLOCK_REALTIME, &clock)
            header.ts.tv_sec = clock.tv_sec
            header.ts.tv_usec = clock.tv_nsec
        }
        let bytes = frame.start.assumingMemoryBound(to: UInt8.self)
        if hasFilter, pcap_offline_filter(&program, &header, bytes) == 0 { return false }
        // libpcap passes its dumper as the callback's user pointer.
        errno = 0
        pcap_dump(
            UnsafeMutableRawPointer(dumper).assumingMemoryBound(to: UInt8.self), &header, bytes)
        if failureText == nil, errno != 0, let file = pcap_dump_file(dumper), ferror(file) != 0 {
            failureText = String(cString: strerror(errno))
        }
        return true
    }
}

/// Frames of a capture file (pcap or pcapng), to be received by a switch.
public final class CaptureReader {
    private let handle: OpaquePointer
    private let path: String

    /// Throws when the file cannot be read or is not of Ethernet frames.
    public init(path: String) throws(PortError) {
        var message = [CChar](repeating: 0, count: Int(PCAP_ERRBUF_SIZE))
        guard
            let handle = pcap_open_offline_with_tstamp_precision(
                path, UInt32(PCAP_TSTAMP_PRECISION_NANO), &message)
        else {
            let text = String(
                decoding: message.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            throw PortError(port: path, message: text)
        }
        guard pcap_datalink(handle) == DLT_EN10MB else {
            let type = pcap_datalink(handle)
            pcap_close(handle)
            throw PortError(port: path, message: "link type \(type) is not Ethernet")
        }
        self.handle = handle
        self.path = path
    }

    deinit { pcap_close(handle) }

    /// The next frame and its time, ns since 1970; nil at the end of the file.
    public func next() throws(PortError) -> (bytes: [UInt8], time: UInt64)? {
        var header: UnsafeMutablePointer<pcap_pkthdr>?
        var data: UnsafePointer<UInt8>?
        switch pcap_next_ex(handle, &header, &data) {
        case 1:
            guard let header, let data else { return nil }
            let bytes = [UInt8](
                UnsafeBufferPointer(start: data, count: Int(header.pointee.caplen)))
            let time =
                UInt64(max(0, header.pointee.ts.tv_sec)) &* 1_000_000_000
                &+ UInt64(max(0, header.pointee.ts.tv_usec))
            return (bytes, time)
        case -2: return nil
        default:
            throw PortError(port: path, message: String(cString: pcap_geterr(handle)))
        }
    }
}

/// Writes what a replay sends.
public final class CaptureOutput {
    private let writer: CaptureWriter
    public init(path: String) throws(PortError) { writer = try CaptureWriter(path: path) }
    /// `time`: ns since 1970.
    public func write(_ frame: Frame, time: UInt64) { _ = writer.write(frame, time: time) }
}
