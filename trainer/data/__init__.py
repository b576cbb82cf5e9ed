"""Training images as augmented batches and targets; knows no net and no optimiser."""
