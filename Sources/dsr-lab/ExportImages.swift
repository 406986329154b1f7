import Foundation
import Glibc

/// File systems of servers that are independent of each other and give equal handles for different files: clones
/// of one image. A handle has the file system's UUID and the file's number and generation, and those are the same.
///
/// The files that all have before they are cloned are `box.txt` and `files/01` to `files/16`. What is made later has
/// a generation by chance.
struct ExportImages {
    let state: LabState

    /// The image of an export at a host, which is made when it is not there.
    func make(_ export: Topology.Export, for host: String) throws -> String {
        let path = "\(state.images)/\(export.name).\(host).img"
        let manager = FileManager.default
        if !manager.fileExists(atPath: path) {
            try manager.createDirectory(atPath: state.images, withIntermediateDirectories: true)
            try Command.run(["cp", "--sparse=always", base(export), path])
        }
        try waitUntilFree(path)
        return path
    }

    /// $1 image, $2 folder for what is to be in it, $3 UUID, $4 size
    private static let creation = #"""
        set -e
        mkdir -p "$2/files"
        touch "$2/box.txt"
        for number in 01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 16; do
            touch "$2/files/$number"
        done
        chmod -R a+rwX "$2"
        truncate -s "$4" "$1.new"
        mkfs.ext4 -q -F -m 0 -O ^has_journal -U "$3" -d "$2" "$1.new"
        rm -r "$2"
        mv "$1.new" "$1"
        """#

    /// Exports with the same number and size share it: it is their servers' file systems that collide.
    private func base(_ export: Topology.Export) throws -> String {
        let size = export.sizeMib ?? 64
        let path = "\(state.images)/base-\(export.exportId)-\(size).img"
        if FileManager.default.fileExists(atPath: path) { return path }
        let digits = String(export.exportId)
        let uuid = "d5a00000-0000-4000-8000-" + String(repeating: "0", count: 12 - digits.count)
        try Command.run([
            "sh", "-c", Self.creation, "image", path, "\(path).files", uuid + digits, "\(size)M",
        ])
        return path
    }

    /// Mounts go with the last process that sees them, a moment after its end. An image that is mounted twice would be
    /// damaged.
    private func waitUntilFree(_ path: String) throws {
        for _ in 0..<250 {
            let devices = try Command.attempt(["losetup", "-j", path])
            if devices.output.isEmpty || devices.status != 0 { return }
            usleep(20_000)
        }
        throw LabError("\(path) is mounted still")
    }

    /// For the end of a lab.
    func waitUntilFree() throws {
        let names = try? FileManager.default.contentsOfDirectory(atPath: state.images)
        for name in names ?? [] { try waitUntilFree("\(state.images)/\(name)") }
    }
}
