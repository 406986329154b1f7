import CLinux
import Glibc
import Synchronization

/// What the kernel says of a network device: whether it is there, its link, its MTU.
///
/// Asking for the carrier takes the kernel's lock of all network settings (rtnl), which others hold for tens of
/// milliseconds when they delete devices. So the packet thread does not ask when a `LinkWatch` does.
final class DeviceLink: Sendable {
    struct State: Equatable, Sendable {
        /// 0: the device does not exist.
        var interfaceIndex: Int32 = 0
        var mtu = 0
        /// It is switched on, and has a carrier.
        var isUp = false
    }

    let device: String
    /// Of the namespace in which this was made, whichever thread asks.
    private let descriptor: Int32
    private let packed: Atomic<UInt64>

    init(device: String) {
        self.device = device
        descriptor = dsr_device_socket()
        packed = Atomic(Self.pack(Self.ask(descriptor, device)))
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    /// As it was when somebody looked last.
    var newest: State {
        let value = packed.load(ordering: .acquiring)
        return State(
            interfaceIndex: Int32(truncatingIfNeeded: value & 0x7fff_ffff),
            mtu: Int(value >> 31 & 0xffff_ffff), isUp: value >> 63 != 0)
    }

    /// Asks the kernel. True when it is not as it was.
    @discardableResult
    func look() -> Bool {
        let value = Self.pack(Self.ask(descriptor, device))
        return packed.exchange(value, ordering: .acquiringAndReleasing) != value
    }

    private static func ask(_ descriptor: Int32, _ device: String) -> State {
        var state = State()
        var size: Int32 = 0
        let flags = dsr_device_flags(descriptor, device, &state.interfaceIndex, &size)
        guard flags >= 0 else { return State() }
        state.mtu = Int(size)
        state.isUp = flags & Int32(IFF_UP) != 0 && flags & Int32(IFF_RUNNING) != 0
        return state
    }

    private static func pack(_ state: State) -> UInt64 {
        UInt64(UInt32(bitPattern: state.interfaceIndex) & 0x7fff_ffff)
            | UInt64(UInt32(truncatingIfNeeded: state.mtu)) << 31 | (state.isUp ? 1 << 63 : 0)
    }
}

/// A thread that looks at the links of devices, so that a pulled cable is known at once and the packet thread
/// need not ask.
///
/// The kernel's notices (rtnetlink) come up to a second late when links change often; the carrier itself does not.
public final class LinkWatch: Sendable {
    /// Weak, so that a port that was removed is not looked after for ever.
    private struct Entry: Sendable { weak let link: DeviceLink? }

    private let links = Mutex<[Entry]>([])
    private let isStopping = Atomic<Bool>(false)
    private let thread = Mutex<pthread_t?>(nil)
    /// µs.
    private let period: UInt32
    private let onChange: @Sendable () -> Void

    /// - Parameter period: µs between two looks.
    /// - Parameter onChange: called on the watch's thread.
    public init(period: UInt32 = 10_000, onChange: @escaping @Sendable () -> Void) {
        self.period = period
        self.onChange = onChange
    }

    func add(_ link: DeviceLink) {
        links.withLock { entries in
            entries.removeAll { $0.link == nil }
            entries.append(Entry(link: link))
        }
    }

    public func start() {
        thread.withLock { thread in
            guard thread == nil else { return }
            var started = pthread_t()
            let result = pthread_create(
                &started, nil,
                { argument in
                    guard let argument else { return nil }
                    Unmanaged<LinkWatch>.fromOpaque(argument).takeRetainedValue().run()
                    return nil
                }, Unmanaged.passRetained(self).toOpaque())
            precondition(result == 0, "pthread_create: \(result)")
            thread = started
        }
    }

    /// Ends the thread.
    public func stop() {
        isStopping.store(true, ordering: .releasing)
        let started = thread.withLock { thread in
            defer { thread = nil }
            return thread
        }
        if let started { pthread_join(started, nil) }
    }

    private func run() {
        while !isStopping.load(ordering: .acquiring) {
            usleep(period)
            let present = links.withLock { $0.compactMap(\.link) }
            // All of them: each look takes up what is new.
            if present.count(where: { $0.look() }) > 0 { onChange() }
        }
    }
}
