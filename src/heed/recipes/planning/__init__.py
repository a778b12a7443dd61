"""What `heed plan` adds up: bytes of tensors on a device, the forwards of a step, and settings that take less."""
