import CLinux
import DataPlane
import Glibc
import Synchronization

/// One thread's loop over descriptors, timers and work posted from other threads. Everything but `post` and
/// `stop` belongs to the loop's thread (or to the time before `run`).
public final class EventLoop: @unchecked Sendable {
    package struct Events: OptionSet {
        package let rawValue: UInt32
        package init(rawValue: UInt32) { self.rawValue = rawValue }
        package static let read = Events(rawValue: EPOLLIN.rawValue)
        package static let write = Events(rawValue: EPOLLOUT.rawValue)
        package static let edgeTriggered = Events(rawValue: EPOLLET.rawValue)
    }

    /// A timer that can be called off.
    package final class Timer {
        package fileprivate(set) var isCancelled = false
        fileprivate let due: UInt64
        fileprivate let body: () -> Void
        fileprivate init(due: UInt64, body: @escaping () -> Void) {
            self.due = due
            self.body = body
        }
        package func cancel() { isCancelled = true }
    }

    private struct Registration {
        var generation: UInt32
        var handler: (Events) -> Void
    }

    private let epoll: Int32
    private let wakeDescriptor: Int32
    private var registrations: [Int32: Registration] = [:]
    private var generation: UInt32 = 0
    private var timers = Heap<Timer> { $0.due < $1.due }
    private let posted = Mutex<[@Sendable () -> Void]>([])
    private let isStopping = Atomic<Bool>(false)
    private var later: [() -> Void] = []
    /// Monotonic ns at the start of this round.
    package private(set) var now = dsr_monotonic_ns()

    public init() {
        epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
        wakeDescriptor = eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
        precondition(epoll >= 0 && wakeDescriptor >= 0, "no descriptors for the event loop")
        var event = epoll_event()
        event.events = EPOLLIN.rawValue
        event.data.u64 = UInt64.max
        epoll_ctl(epoll, EPOLL_CTL_ADD, wakeDescriptor, &event)
    }

    deinit {
        close(epoll)
        close(wakeDescriptor)
    }

    /// Monotonic ns, read now.
    package func clock() -> UInt64 { dsr_monotonic_ns() }

    // MARK: Descriptors

    package func register(
        _ descriptor: Int32, events: Events, handler: @escaping (Events) -> Void
    ) {
        generation &+= 1
        let isKnown = registrations[descriptor] != nil
        registrations[descriptor] = Registration(generation: generation, handler: handler)
        var event = epoll_event()
        event.events = events.rawValue
        // The generation tells an event of a closed descriptor from one of its successor.
        event.data.u64 = UInt64(generation) << 32 | UInt64(UInt32(bitPattern: descriptor))
        epoll_ctl(epoll, isKnown ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, descriptor, &event)
    }

    package func unregister(_ descriptor: Int32) {
        guard registrations.removeValue(forKey: descriptor) != nil else { return }
        epoll_ctl(epoll, EPOLL_CTL_DEL, descriptor, nil)
    }

    // MARK: Timers

    @discardableResult
    package func schedule(after delay: UInt64, _ body: @escaping () -> Void) -> Timer {
        let timer = Timer(due: dsr_monotonic_ns() &+ delay, body: body)
        timers.insert(timer)
        return timer
    }

    // MARK: From other threads

    /// Runs `body` on the loop's thread. From any thread.
    public func post(_ body: @escaping @Sendable () -> Void) {
        posted.withLock { $0.append(body) }
        var one: UInt64 = 1
        _ = write(wakeDescriptor, &one, 8)
    }

    /// Runs `body` on the loop's thread in the next round. From the loop's thread only.
    package func postLocal(_ body: @escaping () -> Void) { later.append(body) }

    /// Ends `run` after this round. From any thread.
    public func stop() {
        isStopping.store(true, ordering: .releasing)
        var one: UInt64 = 1
        _ = write(wakeDescriptor, &one, 8)
    }

    // MARK: The loop

    public func run() {
        var ready = [epoll_event](repeating: epoll_event(), count: 256)
        while !isStopping.load(ordering: .acquiring) {
            while let first = timers.first, first.isCancelled { _ = timers.removeFirst() }
            var wait: Int64 = -1
            if let first = timers.first {
                let time = dsr_monotonic_ns()
                wait = first.due > time ? Int64(first.due - time) : 0
            }
            if !later.isEmpty { wait = 0 }
            let count = dsr_epoll_wait(epoll, &ready, Int32(ready.count), wait)
            now = dsr_monotonic_ns()
            for index in 0..<max(0, Int(count)) { dispatch(ready[index]) }
            runTimers()
            let due = later
            later.removeAll()
            for body in due { body() }
        }
    }

    private func dispatch(_ event: epoll_event) {
        if event.data.u64 == .max {
            var value: UInt64 = 0
            _ = read(wakeDescriptor, &value, 8)
            let work = posted.withLock { queue in
                let taken = queue
                queue.removeAll()
                return taken
            }
            for body in work { body() }
            return
        }
        let descriptor = Int32(truncatingIfNeeded: event.data.u64)
        guard let registration = registrations[descriptor],
            registration.generation == UInt32(truncatingIfNeeded: event.data.u64 >> 32)
        else { return }
        registration.handler(Events(rawValue: event.events))
    }

    private func runTimers() {
        // Only what is due now: a timer that schedules itself at once does not starve descriptors.
        let time = now
        while let timer = timers.first, timer.due <= time || timer.isCancelled {
            _ = timers.removeFirst()
            if !timer.isCancelled { timer.body() }
        }
    }
}
