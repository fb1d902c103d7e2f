"""Raw scores -> probabilities: fitted on pairs of known relevance, judged on queries held out, kept in a file."""
