"""The page of a run of detection, made from plain values; it knows no file of a run and no data set."""
