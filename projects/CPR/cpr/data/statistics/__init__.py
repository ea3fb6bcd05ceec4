"""What a data set holds: tables, plots and a data card."""
