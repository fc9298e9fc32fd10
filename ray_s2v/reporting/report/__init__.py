"""report.html: how a run went, in one page that opens from disk."""
