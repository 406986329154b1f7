import Foundation
import Testing

/// Real load on real disks.
extension Laboratory {
    static let diskOctets = 64 << 20

    /// A file of random octets as long as a disk.
    func makeRandomFile(_ name: String) async throws -> String {
        let path = "\(directory)/\(name)"
        try await Program.run(["sh", "-c", "head -c \(Self.diskOctets) /dev/urandom > \(path)"])
        return path
    }

    /// Writes a file over a whole disk and reads it back, through the virtual address.
    func writeAndReadBack(
        _ resource: String, file: String, address: String = "10.10.0.100"
    ) async throws {
        let url = url(resource, address: address)
        let copy = "\(file).back"
        try await run(
            "client1", ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", file, url],
            within: 120)
        try await run(
            "client1", ["qemu-img", "convert", "-f", "raw", "-O", "raw", url, copy], within: 120)
        try await Program.run(["cmp", file, copy])
        // The servers' own file: reading back alone would not see data that went to another disk.
        try await Program.run(["cmp", file, backing(resource)])
        try FileManager.default.removeItem(atPath: copy)
    }

    /// A disk as a local block device for fio.
    func startBlockDevice(
        _ resource: String, address: String = "10.10.0.100"
    ) async throws -> (program: Program, socket: String) {
        let socket = "\(directory)/\(resource).nbd"
        let program = try start(
            "client1",
            [
                "qemu-nbd", "-f", "raw", "-k", socket, "-e", "4", "-t",
                url(resource, address: address),
            ])
        let isThere = await eventually(within: 10) {
            FileManager.default.fileExists(atPath: socket)
        }
        try #require(isThere, "qemu-nbd: \(program.output)")
        return (program, socket)
    }

    struct FioResult: Sendable {
        var error: Int
        var readKiB: Int
        var writtenKiB: Int
    }

    func startFio(
        socket: String, seconds: Int, pattern: String = "randrw", blockSize: String = "64k"
    ) throws -> Program {
        var words = [
            "fio", "--name=v", "--ioengine=nbd", "--uri=nbd+unix:///?socket=\(socket)",
            "--rw=\(pattern)", "--bs=\(blockSize)", "--size=64M", "--iodepth=16", "--time_based",
            "--runtime=\(seconds)", "--output-format=terse", "--terse-version=3",
        ]
        if pattern.hasSuffix("rw") {
            words += [
                "--verify=crc32c", "--verify_backlog=64", "--verify_fatal=1",
                "--verify_state_save=0",
            ]
        }
        return try Program(words)
    }

    /// Result of a fio that has ended: fields 5, 6 and 47 of its terse format.
    func fioResult(_ fio: Program, within seconds: Double) async throws -> FioResult {
        let result = try await fio.result(within: seconds)
        #expect(result.status == 0, "fio: \(result.output)")
        let line = try #require(
            result.output.split(separator: "\n").first { $0.hasPrefix("3;") },
            "fio: \(result.output)")
        let fields = line.split(separator: ";", omittingEmptySubsequences: false)
        try #require(fields.count > 46)
        return FioResult(
            error: try #require(Int(fields[4])), readKiB: try #require(Int(fields[5])),
            writtenKiB: try #require(Int(fields[46])))
    }
}
