enum ControlPlaneModule {}
