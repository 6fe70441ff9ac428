"""Floor 2, access: device protocols, admission, storage, dispatch."""
