"""Proofs that an export kept what the net says, before an engine is delivered; knows no options of the command line."""
