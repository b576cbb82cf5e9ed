"""How fast an engine runs: time, floating-point operations and share of the peak; knows nothing of accuracy."""
