"""Floor 1, perception: what runs on or beside a device, and simulators of real devices."""
