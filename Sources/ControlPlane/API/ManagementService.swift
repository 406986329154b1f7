/// What people ask of the resource management. Operations are accepted or refused at once; what becomes of them
/// is told by events.
public protocol ManagementService: Sendable {
    func move(resource: String, to server: String) async throws(ControlError) -> OperationModel
    func change(server: String, _ verb: ServerVerb) async throws(ControlError) -> OperationModel
    /// Until the configuration is read again.
    func addServer(_ request: ServerRequest) async throws(ControlError) -> OperationModel
    /// - Parameter force: it is emptied first, then it leaves.
    func removeServer(_ name: String, force: Bool) async throws(ControlError) -> OperationModel
    func balance() async -> BalanceModel
    /// The best distribution for the present loads; changes nothing.
    func balancePlan() async -> BalancePlanModel
    /// Carries out these very moves, or none.
    func applyBalance(_ request: BalanceRequest) async throws(ControlError) -> OperationModel
    func setAutomaticBalance(_ isOn: Bool) async throws(ControlError) -> BalanceModel
}
