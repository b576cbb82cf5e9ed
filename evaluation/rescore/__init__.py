"""Other truths about the scores of a run: other labels, fewer classes, groups of images.

It knows score tables and lists alone: no model is run, no image is read, and what a report shows is not known here.
"""
