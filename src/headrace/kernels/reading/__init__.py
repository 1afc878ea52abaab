"""Reading: records as they came to rows of typed values, by one rule for all formats."""
