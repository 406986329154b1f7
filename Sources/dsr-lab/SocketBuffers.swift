import Foundation
import Glibc

/// Receive buffers of another program's sockets.
///
/// nfs-ganesha leaves its UDP socket what the system gives it, 208 KiB, and cannot be told otherwise; in a network
/// namespace the default cannot be changed. The kernel counts a datagram of 32 KiB that came in fragments as 53 KiB, so
/// that of five that wait one is lost, and its client waits for its retransmission.
enum SocketBuffers {
    private typealias OpenProcess = @convention(c) (Int32, UInt32) -> Int32
    private typealias TakeDescriptor = @convention(c) (Int32, Int32, UInt32) -> Int32

    /// False when that cannot be done here: the buffer stays as it was.
    @discardableResult
    static func enlarge(_ pid: pid_t, udpPort: UInt16, octets: Int32) -> Bool {
        // glibc has them since 2.36; they are in no header that Swift imports.
        guard let first = dlsym(nil, "pidfd_open"), let second = dlsym(nil, "pidfd_getfd") else {
            return false
        }
        let openProcess = unsafeBitCast(first, to: OpenProcess.self)
        let takeDescriptor = unsafeBitCast(second, to: TakeDescriptor.self)
        let process = openProcess(pid, 0)
        guard process >= 0 else { return false }
        defer { close(process) }
        let sockets = inodes(pid, udpPort)
        let folder = "/proc/\(pid)/fd"
        let manager = FileManager.default
        var isDone = false
        for name in (try? manager.contentsOfDirectory(atPath: folder)) ?? [] {
            guard let number = Int32(name),
                let target = try? manager.destinationOfSymbolicLink(atPath: "\(folder)/\(name)"),
                sockets.contains(target)
            else { continue }
            let descriptor = takeDescriptor(process, number, 0)
            guard descriptor >= 0 else { continue }
            defer { close(descriptor) }
            var size = octets
            let length = socklen_t(MemoryLayout<Int32>.size)
            if setsockopt(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, &size, length) == 0 {
                isDone = true
            }
        }
        return isDone
    }

    /// What the descriptors of the port's sockets lead to: `socket:[1234]`.
    private static func inodes(_ pid: pid_t, _ port: UInt16) -> Set<String> {
        var found: Set<String> = []
        for table in ["udp", "udp6"] {
            let path = "/proc/\(pid)/net/\(table)"
            let data = FileManager.default.contents(atPath: path) ?? Data()
            let text = String(decoding: data, as: UTF8.self)
            for line in text.split(separator: "\n").dropFirst() {
                // Number, address:port in hexadecimal, ..., inode the tenth.
                let words = line.split(separator: " ")
                guard words.count > 9, let digits = words[1].split(separator: ":").last,
                    UInt16(digits, radix: 16) == port
                else { continue }
                found.insert("socket:[\(words[9])]")
            }
        }
        return found
    }
}
