"""From a corpus and a teacher to the rows that a student learns from: candidates, teacher scores, labels."""
