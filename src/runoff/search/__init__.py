"""Documents on disk, found and reranked: index, retrieve, pipeline. Nothing here is imported by `import runoff`."""
