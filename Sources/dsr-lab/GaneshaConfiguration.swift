/// The configuration file of a host's nfs-ganesha.
struct GaneshaConfiguration {
    let state: LabState
    let service: Topology.Service
    let exports: [Topology.Export]

    var text: String {
        ([core, version4, cache, log] + exports.map(block)).joined(separator: "\n")
    }

    private var core: String {
        """
        NFS_CORE_PARAM {
            Protocols = 3, 4;
            NFS_Port = 2049;
            MNT_Port = 20048;
            NLM_Port = 32803;
            Enable_UDP = true;
            Enable_NLM = \(service.locks == true);
            Enable_RQUOTA = false;
            mount_path_pseudo = true;
            Dbus_Name_Prefix = "\(service.host)";
        }
        """
    }

    /// In its grace period nfs-ganesha answers version 3 with JUKEBOX too: most labs have none.
    private var version4: String {
        let grace = service.grace ?? 0
        return """
            NFSv4 {
                Minor_Versions = 0, 1, 2;
                RecoveryBackend = fs;
                RecoveryRoot = "/var/lib/nfs";
                Lease_Lifetime = 5;
                Graceless = \(grace == 0);
                Grace_Period = \(grace == 0 ? 5 : grace);
            }
            """
    }

    /// Directories that others change too are not remembered.
    private var cache: String {
        exports.contains(where: \.isShared) ? "MDCACHE { Dir_Chunk = 0; }" : ""
    }

    private var log: String {
        """
        LOG {
            Default_Log_Level = EVENT;
            Facility {
                name = FILE;
                destination = "\(state.log(service.host, "ganesha"))";
                enable = active;
            }
        }
        """
    }

    private func block(_ export: Topology.Export) -> String {
        """
        EXPORT {
            Export_Id = \(export.exportId);
            Path = "\(state.exportDirectory(export, service.host))";
            Pseudo = "\(export.pseudo)";
            Protocols = 3, 4;
            Transports = UDP, TCP;
            Access_Type = RW;
            Squash = none;
            SecType = sys;\(export.isShared ? "\n    Attr_Expiration_Time = 0;" : "")
            FSAL { Name = VFS; }
        }
        """
    }
}
