"""INT8: where activations lie, layers quantised, what that costs, and which layers go back to half."""
