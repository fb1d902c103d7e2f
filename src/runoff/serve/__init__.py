"""Serve: HTTP requests of several dialects -> shared batches on worker processes -> scores, under any load."""
