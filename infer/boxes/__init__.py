"""Boxes found on the box map of a net, and merged; knows nothing of data sets, tables or drawing."""
