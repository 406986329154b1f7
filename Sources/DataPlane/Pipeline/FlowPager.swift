/// Reads a page of the exact flows in steps, between which the dataplane goes on with packets.
public enum FlowPager {
    /// Flows that one step tells.
    private static let step = 512

    public static func read(
        _ dataplane: DataPlaneWorker, offset: Int, limit: Int
    ) -> [FlowStatus] {
        var cursor = FlowCursor(skip: offset)
        var result: [FlowStatus] = []
        while result.count < limit, !cursor.isAtEnd {
            let rest = min(step, limit - result.count)
            let next = dataplane.call { [cursor] pipeline in
                var cursor = cursor
                let flows = pipeline.nextFlows(&cursor, limit: rest)
                return (flows, cursor)
            }
            guard let next else { break }
            result += next.0
            cursor = next.1
        }
        return result
    }
}
