"""Device profiles: TOML data, one file a device, read by `edgeseq_runtime.device`."""
