"""Proposals of a detection data set: their tables, and how many objects they cover; knows nothing of their classes."""
