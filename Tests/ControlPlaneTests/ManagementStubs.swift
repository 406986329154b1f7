import ControlPlane

/// The resource management of an API with known values: notes what it is asked, refuses what is named nobody.
protocol ManagementStubs: ManagementService {
    func note(_ call: String)
}

extension ManagementStubs {
    func move(resource: String, to server: String) async throws(ControlError) -> OperationModel {
        note("move \(resource) \(server)")
        return try operation("\(resource) is being moved to \(server)", of: resource)
    }
    func change(server: String, _ verb: ServerVerb) async throws(ControlError) -> OperationModel {
        note("\(verb.rawValue) \(server)")
        return try operation("server \(server): \(verb.rawValue)", of: server)
    }
    func addServer(_ request: ServerRequest) async throws(ControlError) -> OperationModel {
        note(
            "addServer \(request.name) \(request.addresses) \(request.port ?? 0) "
                + "\(request.resources) \(request.isSpare ?? false) \(request.weight ?? 0)"
                + secrets(request.credentials))
        return try operation("server \(request.name) is added", of: request.name)
    }
    func removeServer(_ name: String, force: Bool) async throws(ControlError) -> OperationModel {
        note("removeServer \(name) \(force)")
        return try operation("server \(name) is removed", of: name)
    }
    func balance() async -> BalanceModel {
        note("balance")
        var model = BalanceModel()
        model.reason = "even enough"
        model.loads = [ServerLoadModel(server: "s1", before: 200, after: 200)]
        return model
    }
    func balancePlan() async -> BalancePlanModel {
        note("balancePlan")
        var model = BalancePlanModel()
        model.moves = [MoveModel(resource: "r1", from: "s1", to: "s2")]
        model.loads = [
            ServerLoadModel(server: "s1", before: 700, after: 400.25),
            ServerLoadModel(server: "s2", before: 100, after: 399.75),
        ]
        model.reason = "1 move brings the highest load from 700 to 400"
        return model
    }
    func applyBalance(_ request: BalanceRequest) async throws(ControlError) -> OperationModel {
        note("applyBalance \(request.moves.map { "\($0.resource) \($0.from) \($0.to)" })")
        return try operation("1 move is made", of: request.moves.first?.resource ?? "")
    }
    func setAutomaticBalance(_ isOn: Bool) async throws(ControlError) -> BalanceModel {
        note("setAutomaticBalance \(isOn)")
        var model = BalanceModel()
        model.isAutomatic = isOn
        return model
    }

    private func secrets(_ request: CHAPRequest?) -> String {
        guard let request else { return "" }
        return " \(request.user)/\(request.secret)"
            + (request.mutual.map { " \($0.user)/\($0.secret)" } ?? "")
    }

    private func operation(
        _ message: String, of name: String
    ) throws(ControlError) -> OperationModel {
        guard name != "nobody" else {
            throw ControlError(.notFound, "there is no \(name)", suggestion: "there are others")
        }
        var model = OperationModel()
        model.message = message
        model.change = 7
        model.notes = ["a note"]
        return model
    }
}
