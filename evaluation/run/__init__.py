"""A run of engines over a data set: images, batches, shards, resume, workers; knows no report."""
