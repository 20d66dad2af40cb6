"""What finished runs say: records, comparisons, text."""
