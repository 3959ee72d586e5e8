"""How commands reach a device: this machine, or an emulated core."""
