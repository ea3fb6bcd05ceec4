"""The paper's tables on any data set: settings, rows, steps, and the report of what came out."""
