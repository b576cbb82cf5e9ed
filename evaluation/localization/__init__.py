"""Boxes over a data set, scored as the devkit does: the VGG paper's appendix A; knows no training."""
