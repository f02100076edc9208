"""Tables, comparisons and figures, made from results files and stored arrays alone."""
