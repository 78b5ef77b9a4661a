"""The dashboard: a run's history as pages in a browser. It reads, and changes nothing."""
