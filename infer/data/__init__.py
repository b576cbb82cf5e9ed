"""Data sets as files hold them: names, labels and bytes, in whatever container; knows nothing of pixels or engines."""
