"""Looking at runs: the live view, the before/after table, the HTML report. It reads runs and changes none."""
