"""Parts that the importers share: preprocessing and classes by command line, bounds; knows no format of weights."""
