"""The folder that goes onto the device."""
