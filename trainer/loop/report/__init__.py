"""OUT/report.html: one page of a finished run, from what the run left; changes nothing of it and trains nothing."""
