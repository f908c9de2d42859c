"""From raw rows to answers: a trained delta with its processor, on tables, arrays and files."""
