"""What a row of a table is made of: jobs strung together for one row and seed."""
