"""Looking at runs: the live view, the before/after table, the HTML report. Reads stored runs; changes nothing in them."""
