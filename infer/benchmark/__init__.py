"""Speed of an engine: time, floating-point operations and share of the peak; knows nothing of accuracy."""
