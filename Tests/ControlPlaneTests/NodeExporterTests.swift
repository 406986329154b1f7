import ControlPlane
import DataPlane
import Foundation
import Glibc
import Logging
import StorageProtocols
import Synchronization
import TestSupport
import Testing

private let metrics = """
    # HELP node_cpu_seconds_total Seconds the CPUs spent in each mode.
    # TYPE node_cpu_seconds_total counter
    node_cpu_seconds_total{cpu="0",mode="idle"} 1000
    node_cpu_seconds_total{cpu="0",mode="iowait"} 10
    node_cpu_seconds_total{cpu="0",mode="user"} 90
    node_cpu_seconds_total{cpu="1",mode="idle"} 1000
    node_cpu_seconds_total{cpu="1",mode="user"} 100 1700000000000
    node_filesystem_size_bytes{device="a\\"b\\\\c\\nd",mountpoint="/x,y}"} 1.5e+09
    node_load1 0.25
    node_memory_MemAvailable_bytes 6e+09
    node_memory_MemTotal_bytes 8e+09
    node_network_receive_bytes_total{device="eth0"} 5000
    node_network_receive_bytes_total{device="lo"} 99999
    node_network_transmit_bytes_total{device="eth0"} 1000

    """

private func metrics(user: Int, idle: Int) -> String {
    metrics.replacing("mode=\"user\"} 90", with: "mode=\"user\"} \(user)")
        .replacing("mode=\"idle\"} 1000", with: "mode=\"idle\"} \(idle)")
}

@Suite struct PrometheusTextTests {
    @Test func `samples, labels and escapes`() {
        let samples = PrometheusText.samples(metrics.utf8)
        #expect(samples.count == 12)
        #expect(samples[0].labels == ["cpu": "0", "mode": "idle"])
        #expect(samples[4].value == 100)
        #expect(samples[5].labels == ["device": "a\"b\\c\nd", "mountpoint": "/x,y}"])
        #expect(samples[5].value == 1.5e9)
        #expect(PrometheusText.samples(metrics.utf8, names: ["node_load1"]).map(\.value) == [0.25])
    }

    @Test func `lines that are none are passed over`() {
        let text = """
            a
            a{ 1
            a{b} 1
            a{b="c 1
            a{b="c\\
            a x
            a 1 x
            {b="c"} 1
            # a 1
              a { b = "c" , } 2 3
            a NaN
            a +Inf
            """
        let samples = PrometheusText.samples(text.utf8)
        #expect(samples.count == 3)
        #expect(samples[0] == PrometheusText.Sample(name: "a", labels: ["b": "c"], value: 2))
        #expect(samples[1].value.isNaN)
    }

    @Test func `a load from two answers`() throws {
        let first = try #require(PrometheusText.load(metrics.utf8))
        // 30 busy of 30 + 2 x 30.
        let second = try #require(PrometheusText.load(metrics(user: 120, idle: 1_030).utf8))
        #expect(
            second.load(since: first, seconds: 1)
                == AgentLoad(
                    cpuPermille: 333, memoryPermille: 250, runQueueHundredths: 25, cores: 2))
        #expect(PrometheusText.load("node_load1 1\n".utf8) == nil)
        #expect(PrometheusText.load([]) == nil)
    }

    @Test func `octets at random never trap`() {
        var random = SplitMix64(seed: 11)
        for _ in 0..<5_000 {
            var bytes = Array(metrics.utf8)
            for _ in 0...random.below(6) { random.mutate(&bytes, inserting: "{}\"\\=, \nNe+0") }
            let first = PrometheusText.load(bytes)
            _ = first?.load(since: LoadSample(), seconds: 1)
        }
    }
}

@Suite struct HTTPResponseReaderTests {
    /// Fed in pieces of `step` octets.
    private func read(_ text: String, step: Int = 1, maximum: Int = 100) -> Result<
        String, HTTPResponseReader.Failure
    > {
        var reader = HTTPResponseReader(bodyMaximum: maximum)
        let bytes = Array(text.utf8)
        do throws(HTTPResponseReader.Failure) {
            for start in stride(from: 0, to: bytes.count, by: step) {
                let piece = bytes[start..<min(bytes.count, start + step)]
                if let body = try reader.receive(piece, isEnd: false) {
                    return .success(String(decoding: body, as: UTF8.self))
                }
            }
            guard let body = try reader.receive([], isEnd: true) else {
                return .failure(.init(description: "nothing"))
            }
            return .success(String(decoding: body, as: UTF8.self))
        } catch {
            return .failure(error)
        }
    }

    @Test(arguments: [1, 2, 3, 7, 1_000]) func `bodies of all three kinds`(step: Int) {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello more",
            "HTTP/1.0 200 OK\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ntransfer-encoding:  chunked\r\nContent-Length: 1\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
        ] {
            #expect(read(text, step: step) == .success("hello"))
        }
    }

    @Test(arguments: [
        ("", "before the answer"), ("HTTP/1.1 200 OK\r\n", "before the answer"),
        ("SSH-2.0-x\r\n\r\n", "not HTTP/1"), ("HTTP/1.1 404 Not Found\r\n\r\n", "status 404"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", "within the answer"),
        ("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "is no number"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n", "longer than 100"),
        ("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", "Content-Encoding gzip"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "Transfer-Encoding gzip"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "size of a chunk"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", "longer than 100"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na", "within the answer"),
        (
            "HTTP/1.1 200 OK\r\n\r\n" + String(repeating: "x", count: 101), "longer than 100"
        ),
        (String(repeating: "x", count: 70_000), "head is too long"),
    ]) func `answers that are refused`(text: String, message: String) {
        for step in [1, 1_000] {
            guard case .failure(let failure) = read(text, step: step) else {
                Issue.record("taken")
                continue
            }
            #expect(failure.description.contains(message), "\(failure)")
        }
    }

    @Test(arguments: [
        ("http://10.0.0.1", "http://10.0.0.1:9100/metrics"),
        ("http://10.0.0.1/", "http://10.0.0.1:9100/metrics"),
        ("http://10.0.0.1:80/a?b", "http://10.0.0.1:80/a?b"),
        ("http://[fd00::1]:80", "http://[fd00::1]:80/metrics"),
        ("http://[fd00::1]/m", "http://[fd00::1]:9100/m"), ("http://fd00::1/m", nil),
        ("http://[10.0.0.1]/m", nil), ("http://name/m", nil), ("https://10.0.0.1/m", nil),
        ("http://10.0.0.1:0/", nil), ("http://10.0.0.1:+1/", nil), ("http://10.0.0.1/a b", nil),
        ("http://10.0.0.1/\r\nX: y", nil), ("http://", nil), ("", nil),
    ]) func `endpoints`(text: String, expected: String?) {
        #expect(NodeExporterEndpoint(text)?.description == expected)
    }
}

/// A web server on loopback that gives one answer after the other, the last one again and again.
private final class AnswerServer: @unchecked Sendable {
    let port: UInt16
    private let listener: Int32
    let requests = Mutex<[String]>([])

    init(_ answers: [String?]) throws {
        listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = listener
        let isBound = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, size) == 0 && listen(descriptor, 8) == 0
                    && getsockname(descriptor, $0, &size) == 0
            }
        }
        try #require(isBound)
        port = UInt16(bigEndian: address.sin_port)
        Thread.detachNewThread { [weak self] in
            var index = 0
            while true {
                let connection = accept(descriptor, nil, nil)
                guard connection >= 0 else { return }
                var buffer = [UInt8](repeating: 0, count: 4_096)
                let count = max(0, read(connection, &buffer, buffer.count))
                self?.requests.withLock {
                    $0.append(String(decoding: buffer[..<count], as: UTF8.self))
                }
                if let answer = answers[min(index, answers.count - 1)] {
                    _ = send(connection, answer, answer.utf8.count, Int32(MSG_NOSIGNAL))
                    close(connection)
                }
                index += 1
            }
        }
    }

    deinit {
        shutdown(listener, Int32(SHUT_RDWR))
        close(listener)
    }
}

@Suite struct NodeExporterMonitorTests {
    private func answer(_ body: String) -> String {
        "HTTP/1.1 200 OK\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)"
    }

    private final class Loads: Sendable {
        let all = Mutex<[AgentLoad]>([])
    }

    /// Asks every 20 ms until `isDone`, at most 5 s.
    private func watch(
        _ server: AnswerServer, until isDone: (Loads, NodeExporterMonitor, LoopThread) async -> Bool
    ) async throws -> Bool {
        let thread = LoopThread()
        let loads = Loads()
        nonisolated(unsafe) let monitor = NodeExporterMonitor(
            loop: thread.loop, log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
            device: nil, interval: 20_000_000, timeout: 100_000_000
        ) { _ in IPAddress(v4: 0x7f00_0001) }
        monitor.onLoad = { _, load in loads.all.withLock { $0.append(load) } }
        let endpoint = try #require(NodeExporterEndpoint("http://127.0.0.1:\(server.port)"))
        await thread.call {
            monitor.update(["a": endpoint])
            monitor.start()
        }
        var result = false
        for _ in 0..<1_000 where !result {
            result = await isDone(loads, monitor, thread)
            if !result { try await Task.sleep(for: .milliseconds(5)) }
        }
        await thread.call { monitor.stop() }
        return result
    }

    @Test func `asks, and computes the load`() async throws {
        let server = try AnswerServer([
            answer(metrics), answer(metrics(user: 120, idle: 1_030)),
        ])
        let isDone = try await watch(server) { loads, _, _ in
            loads.all.withLock { !$0.isEmpty }
        }
        #expect(isDone)
        let request = try #require(server.requests.withLock { $0.first })
        #expect(request.hasPrefix("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:\(server.port)\r\n"))
    }

    @Test(arguments: [
        ("HTTP/1.1 500 Oops\r\n\r\n", "HTTP status 500"),
        ("HTTP/1.1 200 OK\r\n\r\nnothing here\n", "tells neither processors nor memory"),
        (nil, "no answer"),
    ]) func `failures are counted and named`(answer: String?, message: String) async throws {
        let server = try AnswerServer([answer])
        let isDone = try await watch(server) { loads, monitor, thread in
            nonisolated(unsafe) let monitor = monitor
            let failures = await thread.call { monitor.failures(of: "a") }
            return (failures?.count ?? 0) >= 2 && failures?.last == message
                && loads.all.withLock { $0.isEmpty }
        }
        #expect(isDone)
    }
}
