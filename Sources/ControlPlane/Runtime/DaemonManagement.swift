import DataPlane

// What people ask of the resource management. It lives on the session thread.
extension Daemon {
    /// On the session thread; its answer tells where the events about it begin.
    func operate(
        _ body: @escaping @Sendable () -> Result<OperationModel, ControlError>
    ) async throws(ControlError) -> OperationModel {
        let result = await onLoop { [events] () -> Result<OperationModel, ControlError> in
            let last = events.last
            return body().map { model in
                var model = model
                model.eventsAfter = last
                return model
            }
        }
        return try result.get()
    }

    /// Tells the manager; the change that it has planned for exactly this.
    func perform(
        _ operation: ManagementOperation, reason: ChangeReason? = nil
    ) throws(ControlError) -> OperationModel {
        var model = OperationModel()
        do throws(ManagementRefusal) {
            for case .changePlanned(let id, let planned, _) in try management.perform(operation)
            where planned == reason {
                model.change = id.value
            }
        } catch {
            throw ControlError(error, table: management.manager.table)
        }
        return model
    }

    private func run(
        _ body: @escaping @Sendable () throws(ControlError) -> OperationModel
    ) async throws(ControlError) -> OperationModel {
        try await operate {
            do throws(ControlError) {
                return .success(try body())
            } catch {
                return .failure(error)
            }
        }
    }

    public func move(
        resource: String, to server: String
    ) async throws(ControlError) -> OperationModel {
        try await run { [self] () throws(ControlError) in
            let from = management.manager.table.assignedServer(of: resource) ?? ""
            var model = try perform(
                .move(resource: resource, to: server), reason: .operatorMove)
            model.message = "\(resource) is being moved from \(from) to \(server)"
            return model
        }
    }

    public func change(
        server: String, _ verb: ServerVerb
    ) async throws(ControlError) -> OperationModel {
        try await run { [self] () throws(ControlError) in
            switch verb {
            case .drain:
                let count = portal.resources.assigned(to: server).count
                var model = try perform(.drain(server: server), reason: .drain(of: server))
                model.message = "server \(server) is being drained: \(count) resources leave it"
                return model
            case .undrain:
                var model = try perform(.undrain(server: server))
                model.message = "server \(server) takes resources again"
                return model
            }
        }
    }

    // MARK: Servers

    private static let untilReload =
        "this holds until the configuration is read again or dsrd is restarted: change the file too"

    public func addServer(
        _ request: ServerRequest
    ) async throws(ControlError) -> OperationModel {
        let server = try Self.server(request)
        let resources = request.resources
        return try await run { [self] () throws(ControlError) in
            var model = try add(server, resources)
            model.message = "server \(server.name) is added; it is used when it has been probed"
            model.notes = [Self.untilReload]
            return model
        }
    }

    package static func server(_ request: ServerRequest) throws(ControlError) -> Server {
        let isName = request.name.allSatisfy { $0.isLetter || $0.isNumber || "-_.".contains($0) }
        guard isName, !request.name.isEmpty else {
            throw ControlError(
                .badRequest, "\"\(request.name)\" is not a name", field: "name",
                suggestion: "letters, digits, -, _ and . make a name")
        }
        var addresses: [IPAddress] = []
        for text in request.addresses {
            guard let address = IPAddress(text) else {
                throw ControlError(
                    .badRequest, "\"\(text)\" is not an address", field: "addresses")
            }
            addresses.append(address)
        }
        guard !addresses.isEmpty else {
            throw ControlError(.badRequest, "a server needs an address", field: "addresses")
        }
        guard let port = UInt16(exactly: request.port ?? 3260), port > 0 else {
            throw ControlError(.badRequest, "a port is 1 to 65535", field: "port")
        }
        let weight = request.weight ?? 1
        guard weight >= 0.001, weight <= 1_000 else {
            throw ControlError(.badRequest, "a weight is 0.001 to 1000", field: "weight")
        }
        var wanted: CHAPCredential?
        if let credentials = request.credentials { wanted = try credential(credentials) }
        return Server(
            name: request.name, addresses: addresses, iscsiPort: port,
            credential: wanted,
            isSpare: request.isSpare ?? false, weight: weight)
    }

    /// The rules of the configuration hold here too.
    private static func credential(_ request: CHAPRequest) throws(ControlError) -> CHAPCredential {
        let field = "credentials"
        for (user, secret, path) in [
            (request.user, request.secret, field),
            (request.mutual?.user, request.mutual?.secret, "\(field).mutual"),
        ] {
            guard let user, let secret else { continue }
            if user.isEmpty {
                throw ControlError(.badRequest, "a name is empty", field: "\(path).user")
            }
            if !CHAPCredential.secretLengths.contains(secret.utf8.count) {
                throw ControlError(
                    .badRequest, "a secret \(CHAPCredential.secretRule)", field: "\(path).secret")
            }
        }
        return CHAPCredential(
            user: request.user, secret: request.secret,
            mutual: request.mutual.map { .init(user: $0.user, secret: $0.secret) })
    }

    /// First those that carry out what the manager decides, which may be at once.
    private func add(
        _ server: Server, _ resources: [String]
    ) throws(ControlError) -> OperationModel {
        guard !resources.isEmpty else {
            throw ControlError(
                .badRequest, "a server needs a resource that it holds", field: "resources",
                suggestion: "it is of no use without; resource list tells their names")
        }
        if let other = configuration.servers.first(where: { $0.name == server.name }) {
            throw ControlError(.serverExists(other.name), table: management.manager.table)
        }
        for name in resources where portal.resources[name] == nil {
            throw ControlError(.unknownResource(name), table: management.manager.table)
        }
        var wanted = configuration
        wanted.servers.append(server)
        for index in wanted.resources.indices
        where resources.contains(wanted.resources[index].name) {
            wanted.resources[index].servers.append(server.name)
        }
        portal.take(server, name: server.name, of: wanted)
        health.add(server)
        management.learn(server)
        setConfiguration(wanted)
        return try perform(
            .addServer(
                ManagedServer(
                    name: server.name, isSpare: server.isSpare, weight: server.weight),
                resources: resources))
    }

    public func removeServer(
        _ name: String, force: Bool
    ) async throws(ControlError) -> OperationModel {
        if let service = configuration.services.first(where: { $0.server == name }) {
            throw ControlError(
                .conflict, "service \(service.name) goes to server \(name)",
                suggestion: "take the service out of the configuration and reload")
        }
        return try await run { [self] () throws(ControlError) in
            var model = try perform(
                .removeServer(name, force: force), reason: .drain(of: name))
            let isGone = !management.manager.serverNames.contains(name)
            model.message =
                isGone
                ? "server \(name) is removed"
                : "server \(name) is being drained; then it is removed"
            model.notes = [Self.untilReload]
            return model
        }
    }

    /// The manager has let go of it.
    func serverRemoved(_ name: String) {
        var wanted = configuration
        wanted.servers.removeAll { $0.name == name }
        for index in wanted.resources.indices {
            wanted.resources[index].servers.removeAll { $0 == name }
            if wanted.resources[index].assigned == name {
                wanted.resources[index].assigned =
                    portal.resources.assignedServer(of: wanted.resources[index].name)
                    ?? wanted.resources[index].servers.first ?? ""
            }
        }
        setConfiguration(wanted)
        portal.take(nil, name: name, of: wanted)
        health.remove(server: name)
        management.forget(server: name)
    }
}

extension ControlError {
    /// A refusal of the resource management, with what would be right.
    package init(_ refusal: ManagementRefusal, table: ResourceTable) {
        let message = refusal.description
        switch refusal {
        case .unknownServer:
            self.init(
                .notFound, message, field: "server",
                suggestion: "server list tells which there are")
        case .unknownResource:
            let names = table.all.map(\.name).prefix(20).joined(separator: ", ")
            self.init(
                .notFound, message, field: "resource",
                suggestion: names.isEmpty ? "there is none at all" : "there are \(names)")
        case .serverExists:
            self.init(
                .conflict, message, field: "name",
                suggestion: "remove it first, or take another name")
        case .notHeld(let resource, _):
            let holders = table[resource]?.servers.joined(separator: ", ") ?? ""
            self.init(.conflict, message, suggestion: "it is held by \(holders)")
        case .alreadyThere: self.init(.conflict, message, suggestion: "there is nothing to do")
        case .changeInProgress:
            self.init(.conflict, message, suggestion: "events --follow tells when it is done")
        case .serverNotUsable(let server, _):
            self.init(
                .conflict, message,
                suggestion: "server list tells of its state; server undrain \(server) ends a drain")
        case .alreadyDraining(let server):
            self.init(.conflict, message, suggestion: "server undrain \(server) ends that")
        case .notDraining: self.init(.conflict, message, suggestion: "there is nothing to do")
        case .stillServes(let server, _):
            self.init(
                .conflict, message, suggestion: "server remove \(server) --force drains it first")
        case .onlyHolder:
            self.init(
                .conflict, message, suggestion: "another server has to hold them, or they are lost")
        case .stalePlan:
            self.init(.conflict, message, suggestion: "balance plan makes a new one")
        }
    }
}
