package import DataPlane

/// What a link does to frames. Probabilities of 1000.
package struct LinkFaults: Sendable {
    package var loss = 0
    package var duplication = 0
    package var reordering = 0
    /// ns.
    package var delay: UInt64 = 200_000
    package var extraDelay: UInt64 = 1_500_000
    package init() {}

    package static var bad: LinkFaults {
        var faults = LinkFaults()
        faults.loss = 20
        faults.duplication = 20
        faults.reordering = 60
        return faults
    }
}

/// Frames on their way, in the order of their arrival.
package struct Deliveries {
    package struct Entry {
        package var time: UInt64
        package var order: UInt64
        package var place: SplicePlace
        package var isToSwitch: Bool
        package var frame: MemoryPort.SentFrame
    }

    private var heap: [Entry] = []
    private var order: UInt64 = 0

    package init() {}

    package var next: UInt64? { heap.first?.time }

    private static func isEarlier(_ left: Entry, _ right: Entry) -> Bool {
        (left.time, left.order) < (right.time, right.order)
    }

    package mutating func add(
        at time: UInt64, _ place: SplicePlace, isToSwitch: Bool, _ frame: MemoryPort.SentFrame
    ) {
        order += 1
        heap.append(
            Entry(
                time: time, order: order, place: place, isToSwitch: isToSwitch, frame: frame))
        var index = heap.count - 1
        while index > 0, Self.isEarlier(heap[index], heap[(index - 1) / 2]) {
            heap.swapAt(index, (index - 1) / 2)
            index = (index - 1) / 2
        }
    }

    package mutating func takeFirst() -> Entry? {
        guard let first = heap.first, let last = heap.popLast() else { return nil }
        guard !heap.isEmpty else { return first }
        heap[0] = last
        var index = 0
        while true {
            var least = index
            for child in [2 * index + 1, 2 * index + 2]
            where child < heap.count && Self.isEarlier(heap[child], heap[least]) {
                least = child
            }
            if least == index { return first }
            heap.swapAt(index, least)
            index = least
        }
    }
}

/// The four neighbours of the switch, by port number.
package enum SplicePlace: UInt16, CaseIterable, Sendable {
    case client = 1
    case clientSocket = 2
    case server = 3
    case serverSocket = 4

    package var isSocket: Bool { self == .clientSocket || self == .serverSocket }
    package var side: SpliceSide { rawValue <= 2 ? .client : .server }
}
