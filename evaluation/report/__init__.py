"""Pages and tables from the files of a run; runs no engine."""
