import Glibc

extension AnnouncementKey {
    /// Why a file does not give a secret.
    public enum InvalidSecret: Error, Hashable, Sendable, CustomStringConvertible {
        case unreadable(Int32)
        case notAFile
        case length

        public var description: String {
            switch self {
            case .unreadable(let code): "cannot be read: \(String(cString: strerror(code)))"
            case .notAFile: "is no regular file"
            case .length:
                "a secret has \(secretLength.lowerBound) to \(secretLength.upperBound) octets"
            }
        }
    }

    /// The secret that a file holds; the end of its last line does not count.
    public static func secret(file path: String) throws(InvalidSecret) -> String {
        // A pipe that nobody writes to would hold up the start.
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw .unreadable(errno) }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw .unreadable(errno) }
        guard status.st_mode & S_IFMT == S_IFREG else { throw .notAFile }
        var buffer = [UInt8](repeating: 0, count: secretLength.upperBound + 3)
        let count = read(descriptor, &buffer, buffer.count)
        guard count >= 0 else { throw .unreadable(errno) }
        let line = buffer[..<count].reversed().drop { $0 == 10 || $0 == 13 }.reversed()
        let text = String(decoding: Array(line), as: UTF8.self)
        guard secretLength.contains(text.utf8.count) else { throw .length }
        return text
    }
}
