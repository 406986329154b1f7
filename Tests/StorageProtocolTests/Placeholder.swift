import Testing

@Suite struct StorageProtocolTestsPlaceholder { @Test func builds() {} }
