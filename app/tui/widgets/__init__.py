"""The parts of the screens, one to a file; none of them knows the store or the engine."""
