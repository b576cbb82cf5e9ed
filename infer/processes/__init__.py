"""Processes: which one owns what is written, what bounds their memory, and how those that were started end."""
