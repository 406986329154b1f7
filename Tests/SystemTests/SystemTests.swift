import Glibc
import Testing

/// Everything here runs real clients and servers in network namespaces. One test after the other: they
/// share two processors with what they measure.
@Suite("System", .serialized, .enabled(if: getuid() == 0, "needs root for network namespaces"))
enum SystemTests {}
