"""Media files to arrays and back, by PyAV. No Ray, no torch."""
