"""Floor 3: model packages, runtimes, and the engine that runs them."""
