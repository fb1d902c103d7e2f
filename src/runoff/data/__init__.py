"""What comes in and goes out: documents, queries, runs, judgements."""
