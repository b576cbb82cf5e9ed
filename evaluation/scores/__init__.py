"""Score tables and all that is computed from them alone; knows no engine and no image."""
