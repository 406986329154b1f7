enum StorageProtocolsModule {}
