import DataPlane
import Foundation

/// Where a replay writes what left the switch.
public final class ReplayOutput {
    private enum Form {
        /// One pcap file for every port: the path has a `%p`.
        case perPort([PortNumber: CaptureOutput])
        /// pcapng, with an interface for every port.
        case interfaces(FileHandle)
        /// One pcap file; the ports are not told apart.
        case single(CaptureOutput)
    }
    private var form: Form
    private let path: String

    public init(path: String, portNames: [String]) throws {
        self.path = path
        if path.contains("%p") {
            var outputs: [PortNumber: CaptureOutput] = [:]
            for (index, name) in portNames.enumerated() {
                let safe = name.replacingOccurrences(of: "/", with: "_")
                outputs[PortNumber(index + 1)] = try CaptureOutput(
                    path: path.replacingOccurrences(of: "%p", with: safe))
            }
            form = .perPort(outputs)
        } else if path.hasSuffix(".pcapng") {
            guard FileManager.default.createFile(atPath: path, contents: nil),
                let handle = FileHandle(forWritingAtPath: path)
            else { throw Replay.Failure(description: "cannot write \(path)") }
            try handle.write(contentsOf: PCAPNG.head(interfaces: portNames))
            form = .interfaces(handle)
        } else {
            form = .single(try CaptureOutput(path: path))
        }
    }

    public func write(_ output: Replay.Output) throws {
        switch form {
        case .perPort(let outputs): write(output, to: outputs[output.port])
        case .single(let capture): write(output, to: capture)
        case .interfaces(let handle):
            try handle.write(contentsOf: PCAPNG.packet(output, interface: Int(output.port) - 1))
        }
    }

    private func write(_ output: Replay.Output, to capture: CaptureOutput?) {
        var bytes = output.bytes
        bytes.withUnsafeMutableBytes { buffer in
            guard let base = buffer.baseAddress else { return }
            capture?.write(Frame(start: base, length: buffer.count), time: output.time)
        }
    }
}

/// The blocks of a pcapng file that a replay needs (draft-ietf-opsawg-pcapng), in little endian.
enum PCAPNG {
    private static let ethernet: UInt16 = 1
    private static let snapLength: UInt32 = 262_144

    private static func octets(_ value: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: value.littleEndian) { Array($0) }
    }

    private static func padded(_ bytes: [UInt8]) -> [UInt8] {
        bytes + [UInt8](repeating: 0, count: -bytes.count & 3)
    }

    private static func block(_ type: UInt32, _ body: [UInt8]) -> [UInt8] {
        let length = octets(UInt32(body.count + 12))
        return octets(type) + length + body + length
    }

    private static func option(_ code: UInt16, _ value: [UInt8]) -> [UInt8] {
        octets(code) + octets(UInt16(value.count)) + padded(value)
    }

    /// Section header, and an interface description for each name: times in ns.
    static func head(interfaces: [String]) -> [UInt8] {
        let section =
            octets(UInt32(0x1a2b_3c4d)) + octets(UInt16(1)) + octets(UInt16(0))
            + octets(Int64(-1))
        return interfaces.reduce(into: block(0x0a0d_0d0a, section)) { result, name in
            let body = octets(ethernet) + octets(UInt16(0)) + octets(snapLength)
            let options = option(2, Array(name.utf8)) + option(9, [9]) + option(0, [])
            result += block(1, body + options)
        }
    }

    /// Enhanced packet block, marked as outbound.
    static func packet(_ output: Replay.Output, interface: Int) -> [UInt8] {
        let length = octets(UInt32(output.bytes.count))
        var body = octets(UInt32(interface)) + octets(UInt32(output.time >> 32))
        body += octets(UInt32(truncatingIfNeeded: output.time)) + length + length
        body += padded(output.bytes) + option(2, octets(UInt32(2))) + option(0, [])
        return block(6, body)
    }
}
