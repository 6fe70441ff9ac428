"""What was measured in the last 24 hours, encrypted, and then gone: waveforms as they arrived, and trends."""
