"""Processes and threads: which process owns what is written, what bounds its memory, how its helpers end; work that
overlaps.
"""
