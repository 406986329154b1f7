import Glibc

/// A system call failed.
public struct SystemCallError: Error, CustomStringConvertible, Sendable {
    public var function: String
    public var errno: Int32
    public var context: String

    public init(function: String, errno: Int32, context: String = "") {
        self.function = function
        self.errno = errno
        self.context = context
    }

    public var description: String {
        let reason = String(cString: strerror(errno))
        return context.isEmpty ? "\(function): \(reason)" : "\(function) (\(context)): \(reason)"
    }
}

/// Turns a result that is negative for -errno into a thrown error.
@discardableResult
func check<Value: BinaryInteger>(
    _ function: String, _ result: Value, context: @autoclosure () -> String = ""
) throws(SystemCallError) -> Value {
    guard result >= 0 else {
        throw SystemCallError(
            function: function, errno: Int32(truncatingIfNeeded: 0 - result), context: context())
    }
    return result
}
