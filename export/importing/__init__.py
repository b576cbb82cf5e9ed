"""Parts that the importers share: preprocessing and classes by command line; knows no format of weights."""
