/// Gathers the answer to one GET (RFC 9112), bounded. Octets in, a body out.
public struct HTTPResponseReader: Sendable {
    public struct Failure: Error, Hashable, Sendable, CustomStringConvertible {
        public var description: String
        public init(description: String) { self.description = description }
    }

    private enum Length { case known(Int), chunked, untilEnd }

    private let bodyMaximum: Int
    private static let headMaximum = 64 << 10
    private var bytes: [UInt8] = []
    /// Octets in which the end of the head is not.
    private var searched = 0
    /// Where the body, or the chunk that is read, starts.
    private var position = 0
    private var length: Length?
    private var chunks: [UInt8] = []

    public init(bodyMaximum: Int) { self.bodyMaximum = bodyMaximum }

    /// The body when it is whole; nil: more is to come. `isEnd`: the connection is closed behind `more`.
    public mutating func receive(
        _ more: some Sequence<UInt8>, isEnd: Bool
    ) throws(Failure) -> [UInt8]? {
        bytes.append(contentsOf: more)
        if length == nil { try readHead() }
        guard let length else {
            guard !isEnd else { throw Failure(description: "closed before the answer") }
            return nil
        }
        switch length {
        case .known(let count):
            if bytes.count - position >= count {
                return Array(bytes[position..<position + count])
            }
        case .chunked:
            if try readChunks() { return chunks }
        case .untilEnd:
            guard bytes.count - position <= bodyMaximum else { throw tooLong }
            if isEnd { return Array(bytes[position...]) }
        }
        guard !isEnd else { throw Failure(description: "closed within the answer") }
        return nil
    }

    private var tooLong: Failure {
        Failure(description: "the answer is longer than \(bodyMaximum) octets")
    }

    private mutating func readHead() throws(Failure) {
        let end = Array("\r\n\r\n".utf8)
        // Only what is new: an answer that comes octet by octet must not cost its square.
        guard let start = bytes.prefix(Self.headMaximum).dropFirst(searched).firstRange(of: end)
        else {
            searched = max(0, min(bytes.count, Self.headMaximum) - (end.count - 1))
            guard bytes.count < Self.headMaximum else {
                throw Failure(description: "the answer's head is too long")
            }
            return
        }
        let lines = String(decoding: bytes[..<start.lowerBound], as: UTF8.self)
            .split(separator: "\r\n", omittingEmptySubsequences: false)
        position = start.upperBound
        let status = lines[0].split(separator: " ", maxSplits: 2)
        guard status.count >= 2, status[0].hasPrefix("HTTP/1.") else {
            throw Failure(description: "the answer is not HTTP/1")
        }
        guard status[1] == "200" else {
            throw Failure(description: "HTTP status \(status[1].prefix(16))")
        }
        length = try Self.length(of: lines.dropFirst())
        if case .known(let count) = length, count > bodyMaximum { throw tooLong }
    }

    private static func length(of lines: ArraySlice<Substring>) throws(Failure) -> Length {
        var result = Length.untilEnd
        for line in lines {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2 else { continue }
            let value = parts[1].split(separator: " ").joined(separator: " ").lowercased()
            switch parts[0].lowercased() {
            case "content-length":
                guard let count = Int(value), count >= 0, value.first?.isNumber == true else {
                    throw Failure(description: "Content-Length is no number")
                }
                // RFC 9112 section 6.3: "Transfer-Encoding overrides the Content-Length."
                if case .untilEnd = result { result = .known(count) }
            case "transfer-encoding":
                guard value == "chunked" else {
                    throw Failure(description: "Transfer-Encoding \(value.prefix(32))")
                }
                result = .chunked
            case "content-encoding" where value != "identity":
                throw Failure(description: "Content-Encoding \(value.prefix(32))")
            default: break
            }
        }
        return result
    }

    /// True when the last chunk was read.
    private mutating func readChunks() throws(Failure) -> Bool {
        while let end = bytes[position...].prefix(256).firstIndex(of: UInt8(ascii: "\n")) {
            let line = String(decoding: bytes[position..<end], as: UTF8.self)
            let digits = line.prefix { $0.isASCII && $0.isHexDigit }
            guard !digits.isEmpty, digits.count <= 8, let size = Int(digits, radix: 16) else {
                throw Failure(description: "the size of a chunk is no number")
            }
            // Trailers are not read: the connection closes.
            if size == 0 { return true }
            guard chunks.count + size <= bodyMaximum else { throw tooLong }
            // The chunk and the end of its line.
            guard bytes.endIndex - end - 1 >= size + 2 else { return false }
            chunks.append(contentsOf: bytes[(end + 1)...].prefix(size))
            position = end + 1 + size + 2
        }
        guard bytes.count - position < 256 else {
            throw Failure(description: "the size of a chunk is no number")
        }
        if position > 1 << 16 {
            bytes.removeSubrange(..<position)
            position = 0
        }
        return false
    }
}
