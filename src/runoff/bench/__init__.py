"""The published speed protocol: models x engines -> pairs a second, memory, power, and the tables of them.

Files of this room that other environments run by their path (child.py, exports.py, and what they import) need
nothing but numpy there: importing this package must stay free.
"""
