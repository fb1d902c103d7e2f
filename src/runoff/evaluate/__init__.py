"""Judged sets: how well a first stage and a reranker order what has been judged."""
