/// From a new connection to a server to a nexus that is of use: logs in and, where the nexus takes the place of
/// another, makes it what that one was. Octets in, octets out.
public struct ISCSINexusLogin {
    public enum Outcome {
        case established(ISCSIInitiatorResult)
        case failed(status: UInt16, String)
    }

    private enum Step {
        case login(ISCSIInitiatorLogin)
        case setup(ISCSINexusSetup)
        case over
    }

    private var step: Step
    private let reservations: [UInt64: ISCSIReservation]?
    private var reader = ISCSIPDUReader(dataMaximum: 1 << 24)

    /// - Parameter reservations: of the nexus whose place it takes; nil: it takes none's.
    public init(
        _ login: ISCSIInitiatorLogin, replacing reservations: [UInt64: ISCSIReservation]? = nil
    ) {
        step = .login(login)
        self.reservations = reservations
    }

    /// The first octets for the server.
    public mutating func start() -> [UInt8] {
        guard case .login(var login) = step else { return [] }
        defer { step = .login(login) }
        return login.start().encoded()
    }

    /// Takes octets of the server; nil while it goes on.
    /// - Parameter answer: gets what the server is to be told.
    public mutating func receive(
        _ bytes: UnsafeRawBufferPointer, answer: inout [UInt8]
    ) -> Outcome? {
        reader.append(bytes)
        do throws(ISCSIError) {
            while let pdu = try reader.next() {
                if let outcome = take(pdu, answer: &answer) {
                    step = .over
                    return outcome
                }
            }
        } catch {
            step = .over
            return .failed(status: 0xffff, "\(error)")
        }
        return nil
    }

    /// What the server has sent behind the end.
    public var rest: [UInt8] { reader.remaining }

    private mutating func take(_ pdu: ISCSIPDU, answer: inout [UInt8]) -> Outcome? {
        switch step {
        case .login(var machine):
            let actions = machine.receive(pdu)
            step = .login(machine)
            for action in actions {
                switch action {
                case .send(let next): answer += next.encoded()
                case .failed(let status, let reason):
                    return .failed(status: status, reason)
                case .established(let result):
                    guard let reservations else { return .established(result) }
                    var setup = ISCSINexusSetup(result, reservations: reservations)
                    answer += setup.start().encoded()
                    step = .setup(setup)
                }
            }
        case .setup(var machine):
            let actions = machine.receive(pdu)
            step = .setup(machine)
            for action in actions {
                switch action {
                case .send(let next): answer += next.encoded()
                case .failed(let reason): return .failed(status: 0xfffe, reason)
                case .ready: return .established(machine.session)
                }
            }
        case .over: break
        }
        return nil
    }
}
