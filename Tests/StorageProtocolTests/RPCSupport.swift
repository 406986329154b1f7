import StorageProtocols

extension [UInt8] {
    /// Gives `body` a reader of these octets.
    func withXDR<Value>(_ body: (inout XDRReader) throws -> Value) rethrows -> Value {
        try withUnsafeBytes { raw -> Value in
            var reader = XDRReader(raw)
            return try body(&reader)
        }
    }
}

/// Octets of XDR items.
func xdr(_ write: (inout XDRWriter) -> Void) -> [UInt8] {
    var writer = XDRWriter()
    write(&writer)
    return writer.bytes
}
